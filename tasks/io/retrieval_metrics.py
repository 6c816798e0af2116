"""Recall at 1, 5 and 10 and the median rank of image-text retrieval, both ways, from ranks alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tasks import Metric

CUTOFFS = (1, 5, 10)


@dataclass(frozen=True)
class Fold:
    """Ranks from 1 within one set of candidates: every image among the captions, every caption among the images."""

    images: Sequence[int]
    captions: Sequence[int]


def score_ranks(folds: Sequence[Fold]) -> dict[str, Metric]:
    """`tr_*`: images that find a caption of theirs; `ir_*`: captions that find their image.

    `tr_r1`, `tr_r5`, `tr_r10`, `ir_r1`, `ir_r5`, `ir_r10` are the per cent of queries with a rank up to 1, 5, 10;
    `mean_recall` is the mean of these six; `tr_median_rank` and `ir_median_rank` are medians of the ranks. Of several
    folds each is the mean over the folds. `n` counts queries; for `mean_recall` it counts images.

    A recall at more than there are candidates would be 100 whatever the model does: it is null with the reason.
    Only `tr_*` of one fold has `successes`: the captions of an image are no independent trials, an interval over
    them would be too narrow.

    Raises:
        ValueError: there is no fold, a fold has no images or no captions, or a rank is outside its candidates.
    Source: BEiT-3's retrieval evaluation (`average_score` is mean_recall), as used by MultiWay-Adapter.
    """
    _check(folds)
    recalls: dict[str, Metric] = {}
    medians: dict[str, Metric] = {}
    for way, of_images in (("tr", True), ("ir", False)):
        ranks = [fold.images if of_images else fold.captions for fold in folds]
        candidates = min(len(fold.captions if of_images else fold.images) for fold in folds)
        kind = "captions" if of_images else "images"
        for k in CUTOFFS:
            recalls[f"{way}_r{k}"] = _recall(ranks, k, candidates, kind, counted=of_images)
        median = statistics.fmean(statistics.median(fold) for fold in ranks)
        medians[f"{way}_median_rank"] = Metric(median, "rank", "min", sum(map(len, ranks)))
    images = sum(len(fold.images) for fold in folds)
    return {"mean_recall": _mean(recalls, images), **recalls, **medians}


def _recall(ranks: Sequence[Sequence[int]], k: int, candidates: int, kind: str, *, counted: bool) -> Metric:
    n = sum(map(len, ranks))
    if k > candidates:
        return Metric(
            None, "%", "max", n, reason=f"recall at {k} needs {k} {kind} to choose from, there are {candidates}"
        )
    found = [sum(rank <= k for rank in fold) for fold in ranks]
    value = statistics.fmean(100 * hits / len(fold) for hits, fold in zip(found, ranks, strict=True))
    return Metric(value, "%", "max", n, successes=found[0] if counted and len(ranks) == 1 else None)


def _mean(recalls: dict[str, Metric], n: int) -> Metric:
    values = [recall.value for recall in recalls.values() if recall.value is not None]
    if len(values) < len(recalls):
        reason = next(recall.reason for recall in recalls.values() if recall.reason is not None)
        return Metric(None, "%", "max", n, reason=reason)
    return Metric(statistics.fmean(values), "%", "max", n)


def _check(folds: Sequence[Fold]) -> None:
    if not folds:
        raise ValueError("there are no ranks to score")
    for fold in folds:
        sizes = {"image": len(fold.images), "caption": len(fold.captions)}
        if not min(sizes.values()):
            raise ValueError(f"nothing to rank: {sizes['image']} images and {sizes['caption']} captions")
        for kind, ranks, candidates in (
            ("image", fold.images, sizes["caption"]),
            ("caption", fold.captions, sizes["image"]),
        ):
            odd = next((rank for rank in ranks if not 1 <= rank <= candidates), None)
            if odd is not None:
                raise ValueError(f"{kind} ranks must be from 1 to {candidates}, got {odd}")
