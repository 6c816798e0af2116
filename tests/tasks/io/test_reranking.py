"""The second stage against plain loops over all pairs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.io.ranking import Ranks, rank_pairs
from tasks.io.reranking import rerank_pairs, shortlists

OWNER = torch.tensor([0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 4, 5, 5, 6])


def features(seed: int, *, ties: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    if ties:
        images, captions = (torch.randint(-1, 2, (n, 3), generator=generator).float() for n in (7, len(OWNER)))
        return images, captions
    images = F.normalize(torch.randn(7, 8, generator=generator), dim=1)
    noise = torch.randn(len(OWNER), 8, generator=generator)
    return images, F.normalize(images[OWNER] + noise, dim=1)


def second_scores(seed: int, *, ties: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(100 + seed)
    scores = torch.randn(7, len(OWNER), generator=generator, dtype=torch.float64)
    return scores.round() if ties else scores


def plain(ranks: Ranks, first: Tensor, second: Tensor, k: int) -> Ranks:
    """Without ties in `first`."""
    images, captions = ranks.images.tolist(), ranks.captions.tolist()
    for image in range(len(images)):
        near = sorted(range(len(captions)), key=lambda c: -float(first[image, c]))[:k]
        if images[image] <= k:
            own = max(float(second[image, c]) for c in near if OWNER[c] == image)
            images[image] = 1 + sum(float(second[image, c]) >= own for c in near if OWNER[c] != image)
    for caption in range(len(captions)):
        near = sorted(range(len(images)), key=lambda i: -float(first[i, caption]))[:k]
        if captions[caption] <= k:
            own = float(second[OWNER[caption], caption])
            captions[caption] = 1 + sum(float(second[i, caption]) >= own for i in near if i != OWNER[caption])
    return Ranks(torch.tensor(images), torch.tensor(captions))


@pytest.mark.parametrize("k", [1, 2, 5, 7, 14, 99])
@pytest.mark.parametrize("ties", [False, True])
def test_as_plain_loops(k: int, ties: bool) -> None:
    for seed in range(10):
        images, captions = features(seed)
        second = second_scores(seed, ties=ties)
        ranks = rank_pairs(images, captions, OWNER)
        lists = shortlists(images, captions, k, block=3)
        found = rerank_pairs(ranks, lists, OWNER, lambda i, c, second=second: float(second[i, c]))
        expected = plain(ranks, images.double() @ captions.double().T, second, k)
        assert torch.equal(found.images, expected.images)
        assert torch.equal(found.captions, expected.captions)


def test_only_pairs_of_the_lists_are_asked_for() -> None:
    images, captions = features(0)
    lists = shortlists(images, captions, 2)
    asked = set()

    def match(image: int, caption: int) -> float:
        asked.add((image, caption))
        return 0.0

    rerank_pairs(rank_pairs(images, captions, OWNER), lists, OWNER, match)
    assert sorted(asked) == lists.pairs()
    assert max(7 * 2, len(OWNER) * 2) <= len(asked) <= 7 * 2 + len(OWNER) * 2


@pytest.mark.parametrize("k", [1, 3, 6])
def test_an_item_within_reach_is_on_the_list_whatever_the_ties(k: int) -> None:
    for seed in range(30):
        images, captions = features(seed, ties=True)
        ranks, lists = rank_pairs(images, captions, OWNER), shortlists(images, captions, k)
        # A second stage that knows the truth puts all of these first, and moves no other.
        found = rerank_pairs(ranks, lists, OWNER, lambda i, c: float(OWNER[c] == i))
        for before, after in zip(ranks, found, strict=True):
            assert torch.equal(after, torch.where(before <= k, 1, before))


def test_ties_count_against_the_model() -> None:
    images, captions = features(0)
    ranks = rank_pairs(images, captions, OWNER)
    found = rerank_pairs(ranks, shortlists(images, captions, 3), OWNER, lambda i, c: 0.5)
    assert torch.equal(found.captions[ranks.captions <= 3], torch.full_like(found.captions[ranks.captions <= 3], 3))
