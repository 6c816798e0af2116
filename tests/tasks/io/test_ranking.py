from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tasks.io.ranking import Ranks, rank_pairs
from tasks.io.retrieval_metrics import Fold, score_ranks

RECALLS = ("tr_r1", "tr_r5", "tr_r10", "ir_r1", "ir_r5", "ir_r10")
# The authors' percentages went through float32.
ROUNDING = 1e-4


def recalls(images: Tensor, captions: Tensor, owner: Tensor, **options: Any) -> dict[str, float | None]:
    ranks = rank_pairs(images, captions, owner, **options)
    metrics = score_ranks([Fold(ranks.images.tolist(), ranks.captions.tolist())])
    return {name: metrics[name].value for name in (*RECALLS, "mean_recall")}


def first_occurrences(vision: Tensor, image_ids: Tensor) -> tuple[Tensor, Tensor]:
    """The image features by sorted id, and the image of each row: how the authors read their rows."""
    ids = sorted(set(image_ids.tolist()))
    rows = [image_ids.tolist().index(image_id) for image_id in ids]
    return vision[rows], torch.tensor([ids.index(image_id) for image_id in image_ids.tolist()])


def official(images: Tensor, captions: Tensor, owner: Tensor) -> dict[str, float]:
    """The authors' evaluation, re-written from the golden README: topk, then whether a right one is in it."""
    scores = images @ captions.T
    found = {}
    top = scores.topk(10, dim=1).indices
    for k in (1, 5, 10):
        hits = (owner[top[:, :k]] == torch.arange(len(images))[:, None]).any(dim=1)
        found[f"tr_r{k}"] = 100 * float(hits.double().mean())
    top = scores.topk(10, dim=0).indices
    for k in (1, 5, 10):
        found[f"ir_r{k}"] = 100 * float((top[:k] == owner).any(dim=0).double().mean())
    return found


def bounds(images: Tensor, captions: Tensor, owner: Tensor) -> dict[str, tuple[float, float]]:
    """Worst and best value of each recall over every order of tied integer scores."""
    scores = (images.double() @ captions.double().T).round().long()
    own = owner == torch.arange(len(images))[:, None]
    found = {}
    for way, table, mine in (("tr", scores, own), ("ir", scores.T, own.T)):
        best = table.masked_fill(~mine, -(10**6)).amax(dim=1, keepdim=True)
        above, tied = ((table > best) & ~mine).sum(dim=1), ((table == best) & ~mine).sum(dim=1)
        for k in (1, 5, 10):
            low, high = ((100 * (rank <= k).double().mean()).item() for rank in (1 + above + tied, 1 + above))
            found[f"{way}_r{k}"] = (low, high)
    return found


def unit(generator: torch.Generator, *shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=generator), dim=-1)


def make_pairs(counts: Sequence[int], width: int = 16, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Images, captions near them, and owners in random order."""
    generator = torch.Generator().manual_seed(seed)
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    owner = owner[torch.randperm(len(owner), generator=generator)]
    images = unit(generator, len(counts), width)
    return images, F.normalize(images[owner] + 1.5 * unit(generator, len(owner), width), dim=-1), owner


def unequal() -> list[int]:
    return [1 + number % 12 for number in range(40)]


def with_ties(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(-1, 2, (40, 16), generator=generator).float()
    owner = torch.arange(200) // 5
    changed = torch.rand(200, 16, generator=generator) < 0.5
    noise = torch.randint(-1, 2, (200, 16), generator=generator).float()
    return images, torch.where(changed, noise, images[owner]), owner


def golden_cases(shared: Path) -> Iterator[tuple[str, dict[str, Any], tuple[Tensor, Tensor, Tensor]]]:
    folder = shared / "golden" / "retrieval_metrics"
    features = load_file(folder / "features.safetensors")
    for case, expected in json.loads((folder / "meta.json").read_text())["cases"].items():
        if f"{case}/image_ids" in features:
            images, owner = first_occurrences(features[f"{case}/vision_cls"], features[f"{case}/image_ids"])
            yield case, expected, (images, features[f"{case}/language_cls"], owner)


@pytest.mark.realdata
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_golden_recalls(shared: Path, dtype: torch.dtype) -> None:
    seen = []
    for case, expected, (images, captions, owner) in golden_cases(shared):
        ours = recalls(images.to(dtype), captions.to(dtype), owner)
        seen.append(case)
        for name in RECALLS:
            low, high = expected["tie_bounds_min_max"][name]
            assert ours[name] == pytest.approx(low, abs=ROUNDING), (case, name)  # ties count against the model
            if low == high:
                assert ours[name] == pytest.approx(expected["result"][name], abs=ROUNDING), (case, name)
        if all(low == high for low, high in expected["tie_bounds_min_max"].values()):
            assert ours["mean_recall"] == pytest.approx(expected["result"]["average_score"], abs=ROUNDING), case
    assert {"random", "ties_duplicate_images"} <= set(seen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("counts", [[5] * 40, unequal()])
def test_without_ties_recalls_are_those_of_topk(counts: list[int], dtype: torch.dtype) -> None:
    images, captions, owner = make_pairs(counts)
    ours = recalls(images.to(dtype), captions.to(dtype), owner)
    expected = official(images.to(dtype), captions.to(dtype), owner)
    assert {name: ours[name] for name in RECALLS} == pytest.approx(expected)
    assert 0 < expected["ir_r1"] < 100


def test_rows_with_shuffled_ids_use_the_first_feature_of_an_image() -> None:
    images, captions, owner = make_pairs([5] * 40)
    ids = torch.randperm(1000, generator=torch.Generator().manual_seed(3))[:40].sort().values
    rows = images[owner].clone()
    seen: set[int] = set()
    for row, image in enumerate(owner.tolist()):
        if image in seen:
            rows[row] = unit(torch.Generator().manual_seed(row), 16)  # a later row of the image differs
        seen.add(image)
    found = first_occurrences(rows, ids[owner])
    assert torch.equal(found[0], images)
    assert recalls(found[0], captions, found[1]) == recalls(images, captions, owner)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", [0, 1])
def test_ties_count_against_the_model(seed: int, dtype: torch.dtype) -> None:
    images, captions, owner = with_ties(seed)
    expected = bounds(images, captions, owner)
    ours = recalls(images.to(dtype), captions.to(dtype), owner)
    assert {name: ours[name] for name in RECALLS} == pytest.approx({name: low for name, (low, _) in expected.items()})
    assert any(low < high for low, high in expected.values())


def test_a_hand_worked_case() -> None:
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])  # the third looks like the first
    captions = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 4.0], [0.0, 1.0]])
    owner = torch.tensor([0, 1, 2, 0])
    # Scores [3, 4]: 2 0 1 0 / 0 3 4 1 / 2 0 1 0; own captions 0 and 3 of image 0, 1 of image 1, 2 of image 2.
    ranks = rank_pairs(images, captions, owner)
    assert ranks.images.tolist() == [1, 2, 2]
    assert ranks.captions.tolist() == [2, 1, 3, 3]


@pytest.mark.parametrize("noise", [0.0, 1e-15])
def test_features_that_collapsed_come_last(noise: float) -> None:
    _, captions, owner = make_pairs([5] * 40)
    flat = torch.ones(16, dtype=torch.float64)
    jitter = noise * torch.randn(240, 16, generator=torch.Generator().manual_seed(0)).double()
    ranks = rank_pairs(flat + jitter[:40], flat + jitter[40:], owner)
    assert set(ranks.images.tolist()) == {196}  # behind all 195 captions of others
    assert set(ranks.captions.tolist()) == {40}
    half = rank_pairs((flat + jitter[:40]), captions.double(), owner)  # only the images did
    assert set(half.captions.tolist()) == {40}


def test_equal_images_tie_whatever_the_summation() -> None:
    generator = torch.Generator().manual_seed(0)
    images = unit(generator, 20, 1023).repeat(2, 1)  # i and i + 20 are the same
    captions = F.normalize(images + 0.01 * unit(generator, 40, 1023), dim=-1)
    for block in (1, 3, 17, 64):
        ranks = rank_pairs(images, captions, torch.arange(40), block=block)
        assert set(ranks.captions.tolist()) == {2}, block


@pytest.mark.parametrize("data", [make_pairs(unequal()), with_ties()])
def test_blocks_and_order_play_no_part(data: tuple[Tensor, Tensor, Tensor]) -> None:
    images, captions, owner = data
    expected = rank_pairs(images, captions, owner)
    for block in (1, 7, 40, 1000):
        assert all(map(torch.equal, rank_pairs(images, captions, owner, block=block), expected)), block
    generator = torch.Generator().manual_seed(5)
    by, other = (torch.randperm(len(part), generator=generator) for part in (images, captions))
    shuffled = rank_pairs(images[by], captions[other], by.argsort()[owner[other]], block=11)
    assert torch.equal(shuffled.images, expected.images[by])
    assert torch.equal(shuffled.captions, expected.captions[other])


def test_random_features_are_near_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    values = recalls(unit(generator, 1000, 64), unit(generator, 5000, 64), torch.arange(5000) // 5)
    assert values["ir_r10"] == pytest.approx(1.0, abs=0.5)  # 10 of 1,000
    assert values["tr_r10"] == pytest.approx(1.0, abs=1.0)  # 10 x 5 of 5,000


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.elements = max(self.elements, made.numel())
        return made


def test_no_tensor_is_as_large_as_all_scores() -> None:
    images, captions, owner = make_pairs([5] * 300)
    with Largest() as largest:
        rank_pairs(images, captions, owner, block=64)
    assert largest.elements <= max(images.numel(), captions.numel(), 64 * 64) < 300 * 1500


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, t, o: (v[:, :3], t, o), r"features must be \[I, W\] and \[C, W\], got \[4, 3\] and \[8, 16\]"),
        (lambda v, t, o: (v, t, o[:-1]), r"an image number for each of 8 captions, got \[7\]"),
        (lambda v, t, o: (v, t, o + 1), "owners must be from 0 to 3, got 1 to 4"),
        (lambda v, t, o: (v, t, o.clamp(max=2)), "1 of 4 have none, the first is 3"),
        (lambda v, t, o: (v[:0], t[:0], o[:0]), "every image needs a caption: 0 of 0 have none"),
        (lambda v, t, o: (v * float("nan"), t, o), r"image feature 0 is not finite \(4 of 4 are not\)"),
        (lambda v, t, o: (v, t / torch.tensor([[0.0]] + [[1.0]] * 7), o), "caption feature 0 is not finite"),
    ],
)
def test_refuses_what_cannot_be_ranked(change: Any, message: str) -> None:
    images, captions, owner = make_pairs([2] * 4)
    with pytest.raises(ValueError, match=message):
        rank_pairs(*change(images, captions, owner))


def test_ranks_agree_with_sorting() -> None:
    images, captions, owner = make_pairs([random.Random(0).randint(1, 6) for _ in range(30)], width=5)
    scores = images.double() @ captions.double().T
    expected_images, expected_captions = [], []
    for image, row in enumerate(scores):
        order = row.argsort(descending=True).tolist()
        expected_images.append(1 + min(order.index(c) for c in range(len(captions)) if owner[c] == image))
    for caption, column in enumerate(scores.T):
        expected_captions.append(1 + column.argsort(descending=True).tolist().index(int(owner[caption])))
    ranks = rank_pairs(images, captions, owner)
    assert isinstance(ranks, Ranks)
    assert (ranks.images.tolist(), ranks.captions.tolist()) == (expected_images, expected_captions)
