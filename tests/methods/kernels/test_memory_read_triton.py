"""The Triton kernels of `memory_read` on CPU tensors, against the specification in float64 (tox run -e interp)."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

if os.environ.get("TRITON_INTERPRET") != "1":
    # Set from the start of the process: Triton decides at its import.
    pytest.skip("needs Triton's interpreter: tox run -e interp", allow_module_level=True)
pytest.importorskip("triton", reason="needs triton, of the extra gpu")

from methods.kernels.memory_read import MAX_SLOTS, MAX_WIDTH, memory_read
from tests.golden import GOLDEN, NEEDS_GOLDEN
from tests.methods.kernels.memory_read_cases import (
    Inputs,
    assert_as_exact,
    draw,
    reads,
    results,
    selected,
    tied_by_duplicates,
    tied_integers,
)

DTYPES = [torch.float32, torch.float16]
DROPS = [0.0, 0.1, 0.29, 0.57, 0.9]
FORMS: list[tuple[str, float]] = [("memvp", 0.0), *(("adem", ratio) for ratio in DROPS)]
SLOTS = [1, 7, 20, 64, 100, 320]
WIDTHS = [16, 48, 64, 130]
TEXTS = [1, 3, 33]
# The interpreter is numpy, which warns where exp(-x) of a very negative x is infinite, as silu needs it.
OVERFLOW_IS_MEANT = pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """Whatever is allocated and not written is NaN."""
    torch.use_deterministic_algorithms(True)  # with torch.utils.deterministic.fill_uninitialized_memory, by default on
    yield
    torch.use_deterministic_algorithms(False)


def options(form: str, ratio: float) -> dict[str, Any]:
    return {"form": form} | ({"drop_ratio": ratio} if form == "adem" else {})


def check(inputs: Inputs, weight: Tensor, **chosen: Any) -> None:
    assert_as_exact(reads("triton", **chosen), reads("reference", **chosen), inputs, weight)


def grid() -> list[tuple[torch.dtype, str, float, int, int, int]]:
    """Every dtype, form, drop ratio and S; D and T go round, so that any two values meet (the interpreter is slow).

    With VLTUNE_FULL_GRID=1 every D and T of each.
    """
    if os.environ.get("VLTUNE_FULL_GRID") == "1":
        every = itertools.product(DTYPES, FORMS, SLOTS, WIDTHS, TEXTS)
        return [(dtype, form, ratio, slots, width, text) for dtype, (form, ratio), slots, width, text in every]
    axes = [list(enumerate(axis)) for axis in (DTYPES, FORMS, SLOTS)]
    return [
        (dtype, form, ratio, slots, WIDTHS[(i + j + k) % len(WIDTHS)], TEXTS[(i + j + k) % len(TEXTS)])
        for (i, dtype), (j, (form, ratio)), (k, slots) in itertools.product(*axes)
    ]


def test_the_memory_is_poisoned() -> None:
    assert bool(torch.empty(3).isnan().all())


@pytest.mark.parametrize(("dtype", "form", "ratio", "slots", "width", "text"), grid())
def test_output_and_gradients(dtype: torch.dtype, form: str, ratio: float, slots: int, width: int, text: int) -> None:
    batch = 2 if slots * width < 2000 else 1
    check(*draw((batch, text, slots, width), dtype, **options(form, ratio)), **options(form, ratio))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ratio", DROPS)
@OVERFLOW_IS_MEANT
@pytest.mark.parametrize("ties", [tied_by_duplicates, tied_integers])
def test_ties_at_the_threshold(ties: Any, ratio: float, dtype: torch.dtype) -> None:
    for sizes in ((2, 3, 20, 48), (1, 7, 100, 130)):
        inputs, weight = ties(sizes, dtype)
        scores = F.silu(inputs["x"].double()) @ F.silu(inputs["keys"].double()).mT
        dropped = int(ratio * sizes[2])
        threshold = scores.sort(dim=-1).values[..., dropped, None]
        assert ratio == 0 or bool(((scores < threshold).sum(dim=-1) < dropped).any()), "no tie"
        check(inputs, weight, form="adem", drop_ratio=ratio)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_scores_all_stay(dtype: torch.dtype) -> None:
    inputs, weight = draw((2, 3, 20, 48), dtype, form="adem")
    inputs["keys"] = torch.zeros_like(inputs["keys"])  # a sample without a picture, before training
    check(inputs, weight, form="adem", drop_ratio=0.5)


def test_scores_one_rounding_apart_are_told_apart() -> None:
    slots, width = 40, 48
    x, keys = torch.zeros(1, 1, width), torch.zeros(1, slots, width)
    x[0, 0, 5] = 64.0
    steps = torch.arange(slots)[torch.randperm(slots, generator=torch.Generator().manual_seed(0))]
    keys[0, :, 5] = 64 + steps * 64 * torch.finfo(torch.float32).eps  # silu is exact here
    for ratio in DROPS:
        kept = selected(reads("triton", form="adem", drop_ratio=ratio), x, keys)
        assert torch.equal(kept[0, 0], steps >= int(ratio * slots))


@OVERFLOW_IS_MEANT
@pytest.mark.parametrize("sign", [-1, 1])
def test_scores_of_very_different_sizes_are_told_apart(sign: int) -> None:
    x, keys = torch.zeros(1, 2, 48), torch.zeros(1, 40, 48)
    x[..., 5] = torch.tensor([64.0, -2.0])
    sizes = 10 ** torch.linspace(-7, 4, 40)
    keys[0, :, 5] = sizes[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    keys[0, 0, 5] = sign * 1e5
    keys[0, 1::4, 5] *= -1e-3
    for ratio in (0.1, 0.57, 0.9):
        kept = selected(reads("triton", form="adem", drop_ratio=ratio), x, keys)
        assert torch.equal(kept, selected(reads("reference", form="adem", drop_ratio=ratio), x.double(), keys.double()))


@pytest.mark.parametrize("slots", [7, 20, 64, 100, 130])
def test_the_specification_s_scores_are_kept(slots: int) -> None:
    for ratio in (0.29, 0.57, 0.9):
        inputs, _ = draw((2, 3, slots, 130), torch.float32, form="adem", drop_ratio=ratio)
        kept = selected(reads("triton", form="adem", drop_ratio=ratio), inputs["x"], inputs["keys"])
        assert bool((kept.sum(dim=-1) == slots - int(ratio * slots)).all())
        exact = reads("reference", form="adem", drop_ratio=ratio)
        assert torch.equal(kept, selected(exact, inputs["x"].double(), inputs["keys"].double()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["adem", "memvp"])
@OVERFLOW_IS_MEANT
def test_large_inputs_neither_overflow_nor_turn_nan(form: str, dtype: torch.dtype) -> None:
    inputs, weight = draw((2, 3, 20, 48), dtype, form="adem")
    inputs["x"] = inputs["x"] * 60
    check(inputs | {"values": inputs["values"] / 64}, weight / 64, form=form)


def strided(inputs: Inputs, weight: Tensor, layout: str) -> tuple[Inputs, Tensor]:
    """The same numbers in memory that is laid out otherwise, with NaN wherever no number of theirs lies."""
    return {name: _strided(t, layout) for name, t in inputs.items()}, _strided(weight, layout)


def _strided(tensor: Tensor, layout: str) -> Tensor:
    batch, rows, width = tensor.shape
    if layout == "transposed":
        view = tensor.new_full((width, rows, batch), torch.nan).permute(2, 1, 0)
    elif layout == "every second":
        view = tensor.new_full((2 * batch, 2 * rows, 2 * width), torch.nan)[1::2, ::2, 1::2]
    else:
        view = tensor.new_full((batch + 2, rows + 5, width + 7), torch.nan)[1:-1, 2:-3, 3:-4]
    assert not view.is_contiguous()
    return view.copy_(tensor)


@pytest.mark.parametrize("layout", ["transposed", "every second", "inside NaN"])
@pytest.mark.parametrize(("form", "ratio"), [("memvp", 0.0), ("adem", 0.29)])
def test_layouts_in_memory(form: str, ratio: float, layout: str) -> None:
    for dtype, sizes in ((torch.float32, (2, 3, 20, 48)), (torch.float16, (2, 5, 7, 33))):
        inputs, weight = strided(*draw(sizes, dtype, **options(form, ratio)), layout)
        inputs["residual"] = inputs["x"] * 2
        check(inputs, weight, scale=0.5, **options(form, ratio))


def test_one_memory_for_the_whole_batch() -> None:
    inputs, weight = draw((1, 3, 20, 48), torch.float32, form="adem", drop_ratio=0.29)
    inputs = {name: tensor.expand(3, -1, -1) for name, tensor in inputs.items()}
    check(inputs, weight.expand(3, -1, -1), form="adem", drop_ratio=0.29)


def test_keys_that_are_the_values_and_an_x_that_is_the_residual() -> None:
    inputs, weight = draw((2, 3, 20, 48), torch.float32, form="adem", drop_ratio=0.29)

    def shared(impl: str) -> Any:
        read = reads(impl, form="adem", drop_ratio=0.29)
        return lambda x, memory: read(x, memory, memory, x)

    assert_as_exact(shared("triton"), shared("reference"), {"x": inputs["x"], "memory": inputs["keys"]}, weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [0.1, -2.5, 0.0])
@pytest.mark.parametrize(("form", "ratio"), [("memvp", 0.0), ("adem", 0.29)])
def test_scale_and_residual(form: str, ratio: float, scale: float, dtype: torch.dtype) -> None:
    inputs, weight = draw((2, 3, 20, 48), dtype, **options(form, ratio))
    check(inputs, weight, scale=scale, **options(form, ratio))
    inputs["residual"] = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    check(inputs, weight, scale=scale, **options(form, ratio))


@pytest.mark.parametrize(("form", "ratio"), [("memvp", 0.0), ("adem", 0.29)])
def test_every_choice_of_what_needs_a_gradient(form: str, ratio: float) -> None:
    inputs, weight = draw((1, 3, 20, 16), torch.float32, **options(form, ratio))
    inputs["residual"] = inputs["x"] * 2
    read = reads("triton", scale=0.5, **options(form, ratio))
    full = results(read, inputs, weight)
    for count in range(len(inputs)):
        for names in itertools.combinations(inputs, count):
            leaves = {name: tensor.detach().requires_grad_(name in names) for name, tensor in inputs.items()}
            out = read(**leaves)
            assert torch.equal(out, full["out"])
            assert out.requires_grad == bool(names)
            if names:
                (out * weight).sum().backward()
            for name, leaf in leaves.items():
                assert (leaf.grad is not None) == (name in names)
                assert leaf.grad is None or torch.equal(leaf.grad, full[f"grad_{name}"])


def test_the_inputs_stay_as_they_were_and_twice_is_the_same() -> None:
    for form, ratio in FORMS[:3]:
        inputs, weight = draw((2, 3, 20, 48), torch.float32, **options(form, ratio))
        inputs["residual"] = inputs["x"] * 2
        before = {name: tensor.clone() for name, tensor in inputs.items()}
        first, second = (results(reads("triton", **options(form, ratio)), inputs, weight) for _ in range(2))
        assert all(torch.equal(inputs[name], before[name]) for name in inputs)
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_sample_depends_on_itself_alone() -> None:
    for form, ratio in FORMS[:3]:
        inputs, weight = draw((3, 3, 20, 48), torch.float32, **options(form, ratio))
        together = results(reads("triton", **options(form, ratio)), inputs, weight)
        for i in range(3):
            own = {name: tensor[i : i + 1] for name, tensor in inputs.items()}
            alone = results(reads("triton", **options(form, ratio)), own, weight[i : i + 1])
            assert all(torch.equal(alone[name][0], together[name][i]) for name in alone)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("form", "ratio"), [("memvp", 0.0), ("adem", 0.0), ("adem", 0.29)])
def test_nan_shows_and_stays_where_it_is(form: str, ratio: float, dtype: torch.dtype) -> None:
    inputs, _ = draw((2, 3, 20, 48), dtype, **options(form, ratio))
    read = reads("triton", **options(form, ratio))
    clean = read(**inputs)
    x, keys = inputs["x"].clone(), inputs["keys"].clone()
    x[0, 1, 7] = torch.nan
    out = read(**(inputs | {"x": x}))
    assert bool(out[0, 1].isnan().all())
    assert torch.equal(out[0, ::2], clean[0, ::2])
    assert torch.equal(out[1], clean[1])
    keys[1, 13, 7] = torch.nan
    out = read(**(inputs | {"keys": keys}))
    assert bool(out[1].isnan().all())
    assert torch.equal(out[0], clean[0])


@pytest.mark.parametrize("form", ["adem", "memvp"])
@pytest.mark.parametrize("sizes", [(0, 3), (2, 0)])
def test_nothing_to_read_for(form: str, sizes: tuple[int, int]) -> None:
    batch, text = sizes
    inputs = {"x": torch.ones(batch, text, 16), "keys": torch.ones(batch, 5, 16), "values": torch.ones(batch, 5, 16)}
    got = results(reads("triton", form=form), inputs, torch.ones(batch, text, 16))
    assert got.pop("out").shape == (batch, text, 16)
    assert all(torch.equal(got[f"grad_{name}"], torch.zeros_like(tensor)) for name, tensor in inputs.items())


@pytest.mark.parametrize(
    ("form", "ratio", "slots", "width"),
    [("adem", 0.57, 2, MAX_WIDTH), ("adem", 0.57, MAX_SLOTS, 16), ("memvp", 0.0, MAX_SLOTS, 16)],
)
def test_the_largest_memories(form: str, ratio: float, slots: int, width: int) -> None:
    check(*draw((1, 1, slots, width), torch.float32, **options(form, ratio)), **options(form, ratio))


def golden_cases() -> list[tuple[str, str]]:
    files = {form: GOLDEN / f"{form}_fusion" / "meta.json" for form in ("adem", "memvp")}
    return [(f, case) for f, file in files.items() if file.is_file() for case in json.loads(file.read_text())["cases"]]


@pytest.mark.realdata
@NEEDS_GOLDEN
@OVERFLOW_IS_MEANT
@pytest.mark.parametrize(("form", "case"), golden_cases())
def test_fusion_equals_the_authors_module(form: str, case: str) -> None:
    from safetensors.torch import load_file

    meta = json.loads((GOLDEN / f"{form}_fusion" / "meta.json").read_text())["cases"][case]
    data = load_file(GOLDEN / f"{form}_fusion" / "data.safetensors")
    names = ("x", "image_embeds", "emb1", "emb2", "out_weight")
    given = {name: data[f"{meta['inputs_from']}/in/{name}"] for name in names}
    weight = given.pop("out_weight")
    read = reads("triton", **options(form, meta["drop_ratio"] or 0.0))

    def fusion(x: Tensor, image_embeds: Tensor, emb1: Tensor, emb2: Tensor) -> Tensor:
        return read(x, image_embeds + emb1, image_embeds + emb2)

    for name, got in results(fusion, given, weight).items():
        # golden/README.md: rtol 1e-5 + atol 2e-5 in float32
        torch.testing.assert_close(
            got, data[f"{case}/f32/{name}"], rtol=1e-5, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "softmax"}, "form must be one of"),
        ({"drop_ratio": 1.0}, r"drop_ratio must be in \[0, 1\), got 1.0"),
        ({"drop_ratio": -0.1}, r"drop_ratio must be in \[0, 1\)"),
        ({"form": "memvp", "dropout": 1.5}, r"dropout must be in \[0, 1\), got 1.5"),
        ({"form": "memvp", "drop_ratio": 0.5}, "drop_ratio belongs to form 'adem'"),
        ({"dropout": 0.5}, "dropout belongs to form 'memvp'"),
    ],
)
def test_bad_options_are_refused(change: dict[str, Any], message: str) -> None:
    inputs, _ = draw((2, 3, 10, 8), torch.float32, form="adem")
    with pytest.raises(ValueError, match=message):
        memory_read(**inputs, impl="triton", **{"form": "adem", **change})


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
        memory_read(*map(torch.zeros, shapes), form="adem", impl="triton")


@pytest.mark.parametrize("impl", ["triton", "reference"])
@pytest.mark.parametrize("shape", [(2, 3, 9), (1, 3, 8), (3, 8)])
def test_a_residual_of_another_shape_is_refused(shape: tuple[int, ...], impl: Any) -> None:
    inputs, _ = draw((2, 3, 10, 8), torch.float32, form="adem")
    with pytest.raises(ValueError, match="residual"):
        memory_read(**inputs, form="adem", residual=torch.zeros(shape), impl=impl)


def test_dtypes_are_refused() -> None:
    x, keys, values = (torch.ones(1, 2, 16) for _ in range(3))
    with pytest.raises(ValueError, match="share one floating dtype"):
        memory_read(x, keys.half(), values, form="adem", impl="triton")
    with pytest.raises(ValueError, match="share one floating dtype"):
        memory_read(x.long(), keys.long(), values.long(), form="adem", impl="triton")
    with pytest.raises(ValueError, match="impl='triton'.*float64"):
        memory_read(x.double(), keys.double(), values.double(), form="adem", impl="triton")
    with pytest.raises(ValueError, match="impl='triton'.*bfloat16"):
        memory_read(x.bfloat16(), keys.bfloat16(), values.bfloat16(), form="adem", impl="triton")


@pytest.mark.parametrize(("slots", "width"), [(MAX_SLOTS + 1, 16), (2, MAX_WIDTH + 1)])
def test_beyond_the_limits_only_the_reference_reads(slots: int, width: int) -> None:
    inputs, weight = draw((1, 1, slots, width), torch.float32, form="memvp")
    with pytest.raises(ValueError, match=f"impl='triton'.*got {max(slots, width)}"):
        memory_read(**inputs, form="memvp", impl="triton")
    auto, plain = (results(reads(impl, form="memvp"), inputs, weight) for impl in ("auto", "reference"))
    assert all(torch.equal(auto[name], plain[name]) for name in plain)
