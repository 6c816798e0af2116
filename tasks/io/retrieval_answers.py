"""What retrieval makes of examples: features, matches of a second stage, and in the end ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from tasks import Example, Prediction
from tasks.io.retrieval_items import Candidates, match_id
from tasks.io.same_ids import check_same_ids

P = TypeVar("P", bound=Prediction)


@dataclass(frozen=True, eq=False)
class Embedded(Prediction):
    """The feature of one image or caption: [W] on the CPU, L2-normalised. `Retrieval.conclude` makes ranks of these."""

    vector: Tensor = field(kw_only=True)


@dataclass(frozen=True)
class Matched(Prediction):
    """The log-odds that an image and a caption belong together."""

    match: float = field(kw_only=True)


@dataclass(frozen=True)
class Ranked(Prediction):
    """Rank from 1 of an image's best caption, or of a caption's image, within its fold; see `rank_pairs` for ties."""

    rank: int = field(kw_only=True)


def embedded(id: str, vector: Tensor) -> Embedded:
    """The feature of an example.

    Raises:
        ValueError: it is not a number, as after a diverged training.
    """
    if not vector.isfinite().all():
        raise ValueError(f"the feature of {id!r} is not a number; the training diverged: lower train.lr")
    return Embedded(id, "", vector=vector)


def matched(id: str, match: float) -> Matched:
    """The match of an example of the second stage.

    Raises:
        ValueError: it is not a number, as after a diverged training.
    """
    if not math.isfinite(match):
        raise ValueError(f"the match of {id!r} is not a number; the training diverged: lower train.lr")
    return Matched(id, "", match=match)


def vectors(group: Candidates, found: Mapping[str, Embedded]) -> tuple[Tensor, Tensor]:
    """The features of its images and of its captions."""
    images = torch.stack([found[image.id].vector for image in group.images])
    return images, torch.stack([found[caption.id].vector for caption in group.captions])


def match_in(matches: Mapping[str, float], group: Candidates, image: int, caption: int) -> float:
    """What the second stage has said of two candidates of a group.

    Raises:
        ValueError: nothing.
    """
    id = match_id(group.images[image], group.captions[caption])
    if id not in matches:
        raise ValueError(f"no prediction for {id!r}, which the second stage needs")
    return matches[id]


def by_id(predictions: Sequence[Prediction], examples: Sequence[Example], kind: type[P]) -> dict[str, P]:
    """Predictions by id, known to be of one kind and one for each example.

    Raises:
        ValueError: an id is missing, unknown or doubled.
        TypeError: a prediction of another kind.
    """
    check_same_ids([prediction.id for prediction in predictions], [example.id for example in examples])
    found = {prediction.id: prediction for prediction in predictions if isinstance(prediction, kind)}
    if len(found) < len(predictions):
        other = next(prediction for prediction in predictions if not isinstance(prediction, kind))
        raise TypeError(f"expected {kind.__name__} predictions, got {type(other).__name__} for {other.id!r}")
    return found
