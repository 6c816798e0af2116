"""Exact ranks of matching images and captions among all of them, block by block."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 2048
"""Images, and captions, of one block of scores: 32 MiB in float64."""

TIE = 1e-12
"""Two scores this close are a tie, as a share of the largest |image| |caption|.

Far above what the order of summation can change in float64 (about 1e-15), far below what float32 features can tell
apart (about 1e-8): so ties do not depend on block size, thread count, or the place of an item.
"""


class Ranks(NamedTuple):
    """From 1. images: the best own caption of each image; captions: the own image of each caption."""

    images: Int[Tensor, "I"]
    captions: Int[Tensor, "C"]


def rank_pairs(
    images: Float[Tensor, "I W"], captions: Float[Tensor, "C W"], owner: Int[Tensor, "C"], *, block: int = BLOCK
) -> Ranks:
    """Rank by dot product, computed in float64; memory is O((I + C) W + block^2), never I x C.

    Rivals of an image's best caption are the captions of other images, rivals of a caption's image all other images.

    Ties count against the model: a rank is 1 + the number of rivals that score at least as high. It is the worst that
    any order of the tied items gives, so it needs no order; and features that collapsed to one point come last
    instead of first. Deviation: the authors leave ties to `torch.topk`, whose order is not specified.

    Args:
        images: features, L2-normalised by the caller where cosines are meant.
        captions: features.
        owner: the image of each caption.
        block: images, and captions, that are compared at a time; no rank depends on it.

    Raises:
        ValueError: shapes do not match, an owner is no image, an image has no caption, or a feature is not finite.
    """
    _check(images, captions, owner)
    rows = images.double()
    own = torch.cat(
        [
            (rows[owner[start : start + block]] * captions[start : start + block].double()).sum(dim=1)
            for start in range(0, len(captions), block)
        ]
    )
    best = own.new_full((len(images),), -torch.inf).scatter_reduce(0, owner, own, "amax")
    slack = TIE * float(rows.norm(dim=1).max() * captions.norm(dim=1).max())
    image_ranks, caption_ranks = torch.ones_like(best, dtype=torch.long), torch.ones_like(owner)
    for left in range(0, len(captions), block):
        columns, owners = captions[left : left + block].double(), owner[left : left + block]
        for top in range(0, len(images), block):
            scores = rows[top : top + block] @ columns.T
            inside = ((owners >= top) & (owners < top + block)).nonzero().flatten()
            scores[owners[inside] - top, inside] = -torch.inf  # the pairs themselves are no rivals
            image_ranks[top : top + block] += (scores >= best[top : top + block, None] - slack).sum(dim=1)
            caption_ranks[left : left + block] += (scores >= own[left : left + block] - slack).sum(dim=0)
    return Ranks(image_ranks, caption_ranks)


def _check(images: Tensor, captions: Tensor, owner: Tensor) -> None:
    if images.ndim != 2 or captions.ndim != 2 or images.shape[1] != captions.shape[1]:
        raise ValueError(f"features must be [I, W] and [C, W], got {[*images.shape]} and {[*captions.shape]}")
    if owner.shape != captions.shape[:1] or owner.dtype != torch.long:
        raise ValueError(f"owner must hold an image number for each of {len(captions)} captions, got {[*owner.shape]}")
    if len(owner) and not 0 <= int(owner.min()) <= int(owner.max()) < len(images):
        raise ValueError(f"owners must be from 0 to {len(images) - 1}, got {int(owner.min())} to {int(owner.max())}")
    without = (torch.bincount(owner, minlength=len(images)) == 0).nonzero().flatten()
    if not len(images) or len(without):
        first = f", the first is {int(without[0])}" if len(without) else ""
        raise ValueError(f"every image needs a caption: {len(without)} of {len(images)} have none{first}")
    for name, features in (("image", images), ("caption", captions)):
        bad = (~features.isfinite().all(dim=1)).nonzero().flatten()
        if len(bad):
            raise ValueError(f"{name} feature {int(bad[0])} is not finite ({len(bad)} of {len(features)} are not)")
