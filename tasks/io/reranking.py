"""The second stage of retrieval: the candidates that the first one put in front, in the order of another score."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tasks.io.ranking import Ranks

BLOCK = 256
"""Queries that are compared at a time: 51 MB of float64 for 25,000 candidates."""


class Shortlists(NamedTuple):
    """The first candidates, best first: captions of each image, and images of each caption, by their places."""

    of_images: Int[Tensor, "I K"]
    of_captions: Int[Tensor, "C L"]

    def pairs(self) -> list[tuple[int, int]]:
        """Every image and caption of which one is on the other's list, each pair once."""
        found = {(image, caption) for image, row in enumerate(self.of_images.tolist()) for caption in row}
        found |= {(image, caption) for caption, row in enumerate(self.of_captions.tolist()) for image in row}
        return sorted(found)


def shortlists(
    images: Float[Tensor, "I W"], captions: Float[Tensor, "C W"], k: int, *, block: int = BLOCK
) -> Shortlists:
    """The `k` candidates with the largest dot products of each image and caption, or all where there are fewer.

    Computed in float64, so that an item of rank up to `k` by `rank_pairs` is among them.
    """
    return Shortlists(_first(images, captions, k, block), _first(captions, images, k, block))


def _first(queries: Tensor, candidates: Tensor, k: int, block: int) -> Tensor:
    columns, count = candidates.double().T, min(k, len(candidates))
    starts = range(0, len(queries), block)
    return torch.cat(
        [(queries[start : start + block].double() @ columns).topk(count, dim=1).indices for start in starts]
    )


def rerank_pairs(ranks: Ranks, lists: Shortlists, owner: Int[Tensor, "C"], match: Callable[[int, int], float]) -> Ranks:
    """New ranks of the queries whose own item is in reach of their list; the others keep theirs, which are larger.

    A new rank is 1 + the rivals on the list that match at least as well as the best own item there: as in `rank_pairs`,
    ties count against the model.

    Args:
        ranks: of the first stage.
        lists: of the same images and captions.
        owner: the image of each caption.
        match: the second score, of the places of an image and of a caption on a list.
    """
    images = [[match(image, caption) for caption in row] for image, row in enumerate(lists.of_images.tolist())]
    captions = [[match(image, caption) for image in row] for caption, row in enumerate(lists.of_captions.tolist())]
    own_captions = owner[lists.of_images] == torch.arange(len(images))[:, None]
    own_image = lists.of_captions == owner[:, None]
    return Ranks(_again(ranks.images, images, own_captions), _again(ranks.captions, captions, own_image))


def _again(ranks: Int[Tensor, "N"], matches: list[list[float]], own: Bool[Tensor, "N K"]) -> Int[Tensor, "N"]:
    scores = torch.tensor(matches, dtype=torch.float64)
    best = scores.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
    return torch.where(ranks <= own.shape[1], 1 + (~own & (scores >= best)).sum(dim=1), ranks)
