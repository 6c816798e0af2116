"""The read's own promises, beyond the golden cases of tests/methods/test_golden.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from methods.kernels.memory_read import memory_read


def tensors(batch: int = 2, text: int = 3, slots: int = 10, width: int = 8, **kwargs: Any) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, text, width), (batch, slots, width), (batch, slots, width))
    return [torch.randn(shape, generator=generator, **kwargs) for shape in shapes]


@pytest.mark.parametrize(("ratio", "dropped"), [(0.0, 0), (0.1, 1), (0.29, 2), (0.3, 3), (0.5, 5), (0.95, 9)])
def test_adem_drops_the_lowest_scores_of_each_token(ratio: float, dropped: int) -> None:
    x, keys, values = tensors(dtype=torch.float64)
    scores = F.silu(x) @ F.silu(keys).mT
    for row in scores.flatten(0, 1):
        row[row.argsort()[:dropped]] = 0
    torch.testing.assert_close(memory_read(x, keys, values, form="adem", drop_ratio=ratio), scores @ values)


def test_ties_at_the_threshold_stay() -> None:
    x, values = torch.ones(1, 1, 2), torch.eye(4).unsqueeze(0)[..., :2]
    keys = torch.tensor([[[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [2.0, 2.0]]])
    kept_all = memory_read(x, keys, values, form="adem", drop_ratio=0.5)
    assert torch.equal(kept_all, memory_read(x, keys, values, form="adem"))


def test_the_share_is_truncated_as_a_float_product() -> None:
    x, keys, values = tensors(slots=100)
    scores = F.silu(x) @ F.silu(keys).mT
    assert int(0.57 * 100) == 56
    threshold = scores.sort(dim=-1).values[..., 56:57]
    expected = scores.where(scores >= threshold, 0) @ values
    torch.testing.assert_close(memory_read(x, keys, values, form="adem", drop_ratio=0.57), expected)


@pytest.mark.parametrize("form", ["adem", "memvp"])
def test_gradients_are_right_away_from_ties(form: Any) -> None:
    given = [t.requires_grad_() for t in tensors(1, 2, 5, 3, dtype=torch.float64)]
    ratio = {"drop_ratio": 0.3} if form == "adem" else {}
    assert torch.autograd.gradcheck(lambda *args: memory_read(*args, form=form, **ratio), given)


@pytest.mark.parametrize("form", ["adem", "memvp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_slot_one_token_and_every_dtype(form: Any, dtype: torch.dtype) -> None:
    x, keys, values = tensors(1, 1, 1, 4, dtype=dtype)
    out = memory_read(x, keys, values, form=form)
    assert out.shape == (1, 1, 4)
    assert out.dtype == dtype
    exact = memory_read(x.double(), keys.double(), values.double(), form=form)
    torch.testing.assert_close(out.double(), exact, rtol=3e-2, atol=1e-2)


def test_memvp_dropout_is_seeded_and_keeps_the_mean() -> None:
    x, keys, values = tensors(1, 1, 2000, 4)
    plain = memory_read(x, keys, values, form="memvp")
    torch.manual_seed(0)
    first = memory_read(x, keys, values, form="memvp", dropout=0.1)
    torch.manual_seed(0)
    assert torch.equal(memory_read(x, keys, values, form="memvp", dropout=0.1), first)
    assert not torch.equal(first, plain)
    torch.manual_seed(1)
    mean = torch.stack([memory_read(x, keys, values, form="memvp", dropout=0.1) for _ in range(400)]).mean(dim=0)
    spread = (F.silu(x @ keys.mT)[..., None] * values[:, None]).square().sum(dim=2).sqrt() / 3 / 20
    assert bool(((mean - plain).abs() < 5 * spread).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "softmax"}, "form must be one of"),
        ({"impl": "cuda"}, "impl must be one of"),
        ({"drop_ratio": 1.0}, r"drop_ratio must be in \[0, 1\), got 1.0"),
        ({"drop_ratio": -0.1}, r"drop_ratio must be in \[0, 1\)"),
        ({"form": "memvp", "dropout": 1.5}, r"dropout must be in \[0, 1\), got 1.5"),
        ({"form": "memvp", "drop_ratio": 0.5}, "drop_ratio belongs to form 'adem'"),
        ({"dropout": 0.5}, "dropout belongs to form 'memvp'"),
    ],
)
def test_bad_options_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        memory_read(*tensors(), **{"form": "adem", **change})


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 3, 8), (2, 10, 8), (2, 9, 8)), "must agree"),
        (((2, 3, 8), (1, 10, 8), (1, 10, 8)), "must agree"),
        (((2, 3, 8), (2, 10, 7), (2, 10, 7)), "must agree"),
        (((3, 8), (10, 8), (10, 8)), "must agree"),
        (((2, 3, 8), (2, 0, 8), (2, 0, 8)), "at least one slot"),
    ],
)
def test_shapes_that_disagree_are_refused(shapes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        memory_read(*map(torch.zeros, shapes), form="adem")


def test_other_dtypes_are_refused() -> None:
    x, keys, values = tensors()
    with pytest.raises(ValueError, match="share one floating dtype"):
        memory_read(x, keys.double(), values, form="adem")
    with pytest.raises(ValueError, match="share one floating dtype"):
        memory_read(x.long(), keys.long(), values.long(), form="adem")
