from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from tasks.io.contrast import Direction, Heads, info_nce

DTYPES = {"f32": torch.float32, "f64": torch.float64}
# golden/README.md: f32 outputs 2e-5, gradients 2e-6; f64 re-implemented to 1e-14.
OUTPUTS = {"f32": 2e-5, "f64": 1e-12}


def features(count: int, width: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(F.normalize(torch.randn(count, width, generator=generator).double(), dim=-1) for _ in range(2))  # type: ignore[return-value]


def test_a_hand_worked_case() -> None:
    images, texts = torch.eye(2).double(), torch.tensor([[1.0, 0.0], [1.0, 0.0]]).double()
    # Logits at scale 1: [[1, 1], [0, 0]]; each image is undecided, text 0 prefers its image, text 1 the other one.
    scale = torch.tensor(0.0).double()
    by_image = math.log(2)
    by_text = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2
    assert float(info_nce(images, texts, scale, direction="image")) == pytest.approx(by_image)
    assert float(info_nce(images, texts, scale, direction="text")) == pytest.approx(by_text)
    assert float(info_nce(images, texts, scale)) == pytest.approx((by_image + by_text) / 2)


@pytest.mark.parametrize("direction", ["both", "image", "text"])
def test_without_masking_it_is_cross_entropy(direction: Direction) -> None:
    images, texts = features(6)
    scale = torch.tensor(math.log(1 / 0.07)).double()
    logits = images @ texts.T / 0.07
    ways = {"image": F.cross_entropy(logits, torch.arange(6)), "text": F.cross_entropy(logits.T, torch.arange(6))}
    expected = sum(ways.values()) / 2 if direction == "both" else ways[direction]
    torch.testing.assert_close(info_nce(images, texts, scale, direction=direction), expected)


def test_ignored_pairs_are_no_negatives_but_the_pair_itself_stays() -> None:
    images, texts = features(3)
    scale = torch.tensor(1.0).double()
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    logits = math.e * images @ texts.T
    rows = [[0, 2], [1, 2], [0, 1, 2]]  # what each image, or text, is compared with

    def term(scores: Tensor, own: int) -> Tensor:
        return scores[rows[own]].logsumexp(dim=0) - scores[own]

    by_image = sum(term(logits[p], p) for p in range(3)) / 3
    by_text = sum(term(logits[:, p], p) for p in range(3)) / 3
    found = info_nce(images.requires_grad_(), texts, scale, ignored=same)
    torch.testing.assert_close(found, (by_image + by_text) / 2)
    found.backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert float(found.detach()) < float(info_nce(images, texts, scale).detach())


def test_gradients_reach_scale_and_heads() -> None:
    torch.manual_seed(0)
    heads = Heads(8, 4, temperature=0.07).double()
    images, texts = features(5)
    info_nce(heads.images(images), heads.texts(texts), heads.logit_scale).backward()
    assert {name for name, p in heads.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0} == {
        "vision_head.weight",
        "language_head.weight",
        "logit_scale",
    }

    def loss(change: float) -> float:
        return float(info_nce(heads.images(images), heads.texts(texts), heads.logit_scale.detach() + change))

    with torch.no_grad():
        slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert heads.logit_scale.grad is not None
    assert float(heads.logit_scale.grad) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("width", [8, 12])
def test_new_heads_keep_the_cosine(width: int) -> None:
    torch.manual_seed(0)
    heads = Heads(8, width, temperature=0.07)
    images, texts = (part.float() for part in features(5))
    torch.testing.assert_close(heads.images(3 * images) @ heads.texts(texts).T, images @ texts.T)
    assert float(heads.logit_scale.detach()) == pytest.approx(math.log(1 / 0.07))


def test_a_narrow_space_treats_both_sides_alike() -> None:
    torch.manual_seed(0)
    heads = Heads(8, 4, temperature=0.07)
    hidden = features(5)[0].float()
    assert torch.equal(heads.images(hidden), heads.texts(hidden))
    assert heads.images(hidden).shape == (5, 4)
    torch.testing.assert_close(heads.vision_head.weight @ heads.vision_head.weight.T, torch.eye(4))


def test_computed_in_the_precision_of_the_weights_under_autocast() -> None:
    torch.manual_seed(0)
    heads = Heads(8, 4, temperature=0.07)
    images, texts = (part.float() for part in features(5))
    expected = info_nce(heads.images(images), heads.texts(texts), heads.logit_scale)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(info_nce(heads.images(images), heads.texts(texts), heads.logit_scale), expected)
        assert heads.images(images.bfloat16()).dtype == torch.float32


def test_native_heads_are_frozen_copies() -> None:
    tensors = {name: torch.randn(4, 8) for name in ("vision_head.weight", "language_head.weight")}
    tensors["logit_scale"] = torch.tensor(4.6)
    heads = Heads.native(tensors)
    assert all(torch.equal(value, tensors[name]) for name, value in heads.state_dict().items())
    assert set(heads.state_dict()) == set(tensors)
    assert not any(p.requires_grad for p in heads.parameters())
    hidden = torch.randn(3, 8)
    torch.testing.assert_close(heads.texts(hidden), F.normalize(hidden @ tensors["language_head.weight"].T, dim=-1))


@pytest.mark.realdata
@pytest.mark.parametrize("precision", ["f32", "f64"])
@pytest.mark.parametrize("run", ["both", "plain"])
def test_golden_heads_and_loss(shared: Path, run: str, precision: str) -> None:
    folder = shared / "golden" / "mwa_model"
    data = {
        name.removeprefix(f"{run}/"): t
        for name, t in load_file(folder / "data.safetensors").items()
        if name.startswith(run)
    }
    weights = load_file(folder / "weights.safetensors")
    native = {name: weights[name] for name in ("vision_head.weight", "language_head.weight", "logit_scale")}
    heads = Heads.native(native).to(DTYPES[precision]).requires_grad_(True)
    expected = {name.removeprefix(f"{precision}/"): t for name, t in data.items() if name.startswith(precision)}
    images, texts = heads.images(expected["image_out"][:, 0]), heads.texts(expected["text_out"][:, 0])
    tolerance = {"rtol": 0.0, "atol": OUTPUTS[precision]}
    torch.testing.assert_close(images, expected["vision_cls"], **tolerance)
    torch.testing.assert_close(texts, expected["language_cls"], **tolerance)
    loss = info_nce(images, texts, heads.logit_scale)
    torch.testing.assert_close(loss, expected["loss"].squeeze(), **tolerance)
    loss.backward()
    gradients = {name.removeprefix("grad/"): t for name, t in expected.items() if name.startswith("grad/")}
    for name, parameter in heads.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=0.0, atol=2e-6)
    assert run != "both" or "logit_scale" in gradients
