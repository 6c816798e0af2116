"""Inputs for the kernels of `memory_read`, and the rule by which their results are judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.kernels.memory_read import memory_read

Inputs = dict[str, Tensor]
Read = Callable[..., Tensor]
# Gap at the threshold, in roundings of a score, from which on no order of summation changes what is dropped.
APART = 3


def reads(impl: str, **options: Any) -> Read:
    """The read with these options, as a function of its tensors alone."""

    def read(x: Tensor, keys: Tensor, values: Tensor, residual: Tensor | None = None) -> Tensor:
        return memory_read(x, keys, values, residual=residual, impl=impl, **options)  # type: ignore[arg-type]

    return read


def results(read: Read, inputs: Inputs, weight: Tensor) -> Inputs:
    """The output and the gradient of every input, for the loss `(out * weight).sum()`."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in inputs.items()}
    out = read(**leaves)
    gradients = torch.autograd.grad(out, list(leaves.values()), weight)
    return {"out": out.detach()} | {f"grad_{name}": g for name, g in zip(leaves, gradients, strict=True)}


def assert_as_exact(read: Read, specification: Read, inputs: Inputs, weight: Tensor) -> None:
    """DESIGN.md's rule: at most twice the specification's error in the same dtype, both against float64."""
    got = results(read, inputs, weight)
    exact = results(specification, {name: t.double() for name, t in inputs.items()}, weight.double())
    allowed = errors_in_any_order(specification, inputs, weight, exact)
    for name, truth in exact.items():
        assert (got[name].shape, got[name].dtype) == (truth.shape, weight.dtype), name
        error, twice = float((got[name].double() - truth).abs().max()), 2 * allowed[name]
        # One rounding of the float32 sums and one of the result are always granted.
        eps = torch.finfo(torch.float32).eps + torch.finfo(weight.dtype).eps
        floor = eps * float(truth.abs().max())
        assert error <= twice + floor, f"{name}: off by {error:.3g}, allowed {twice:.3g} + {floor:.3g}"


def errors_in_any_order(read: Read, inputs: Inputs, weight: Tensor, exact: Inputs) -> dict[str, float]:
    """The largest error over some orders of the columns: in a single one a small result may be exact by luck."""
    width = weight.shape[-1]
    generator = torch.Generator().manual_seed(0)
    found = dict.fromkeys(exact, 0.0)
    for order in (torch.arange(width), *(torch.randperm(width, generator=generator) for _ in range(3))):
        permuted = results(read, {name: t[..., order] for name, t in inputs.items()}, weight[..., order])
        for name, tensor in permuted.items():
            found[name] = max(found[name], float((tensor.double() - exact[name][..., order]).abs().max()))
    return found


def thresholds_apart(x: Tensor, keys: Tensor, drop_ratio: float) -> Tensor:
    """[B, T] the gap between the highest dropped and the lowest kept adem score, in roundings of these scores."""
    dropped = int(drop_ratio * keys.shape[1])
    if dropped == 0:
        return torch.full(x.shape[:2], torch.inf)
    a, b = F.silu(x.double()), F.silu(keys.double())
    scores, order = (a @ b.mT).sort(dim=-1)
    terms = (a.square() @ b.square().mT).sqrt().gather(-1, order)
    pair = slice(dropped - 1, dropped + 1)
    rounding = torch.finfo(x.dtype).eps * (terms + scores.abs())[..., pair].amax(dim=-1)
    return (scores[..., dropped] - scores[..., dropped - 1]) / rounding


def draw(
    sizes: tuple[int, int, int, int], dtype: torch.dtype, *, form: str, drop_ratio: float = 0.0, seed: int = 0
) -> tuple[Inputs, Tensor]:
    """Random x, keys and values of sizes (B, T, S, D), and a weight for the output.

    Of many drawn tokens those are taken whose scores at the threshold lie farthest apart: where they are closer than
    their rounding, which one is dropped is chance, and no error rule holds.
    """
    batch, text, slots, width = sizes
    generator = torch.Generator().manual_seed(seed)
    shapes = {"x": (batch, 8 * text, width), "keys": (batch, slots, width), "values": (batch, slots, width)}
    inputs = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    gaps, rows = thresholds_apart(inputs["x"], inputs["keys"], drop_ratio).topk(text, dim=1)
    assert float(gaps.min()) > APART
    inputs["x"] = inputs["x"].gather(1, rows.unsqueeze(-1).expand(-1, -1, width))
    if form == "memvp":  # its scores should lie where silu bends
        inputs["x"] = inputs["x"] / width**0.5
    return inputs, torch.randn((batch, text, width), generator=generator).to(dtype)


def tied_by_duplicates(sizes: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[Inputs, Tensor]:
    """Tokens that read one column each, of keys with few levels: scores are one product, ties exact in any dtype."""
    batch, text, slots, width = sizes
    inputs, weight = draw(sizes, dtype, form="adem")
    generator = torch.Generator().manual_seed(1)
    columns = torch.randint(width, (batch, text, 1), generator=generator)
    entries = torch.tensor([-1.5, 0.75, 2.0]).repeat(text)[:text].view(1, text, 1).expand(batch, -1, -1)
    levels = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0])
    chosen = torch.randint(len(levels), (batch, slots, width), generator=generator)
    x = torch.zeros(batch, text, width).scatter(-1, columns, entries)
    return inputs | {"x": x.to(dtype), "keys": levels[chosen].to(dtype)}, weight


def tied_integers(sizes: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[Inputs, Tensor]:
    """Large integers, where silu is exact: all sums are exact in float16, and many scores equal.

    silu(-1000) is -0.0, so that zeros of both signs meet in the scores' products.
    """
    batch, text, slots, width = sizes
    generator = torch.Generator().manual_seed(2)
    columns = torch.rand((batch, text, width), generator=generator).argsort(dim=-1)
    x = torch.full((batch, text, width), -1000.0).scatter(-1, columns[..., : width // 2], 0.0)
    x = x.scatter(-1, columns[..., :2], 64.0)
    keys = torch.tensor([-1000.0, 0.0, 64.0, 128.0])[torch.randint(4, (batch, slots, width), generator=generator)]
    values, weight = (
        torch.randint(-2, 3, shape, generator=generator) / 256.0
        for shape in ((batch, slots, width), (batch, text, width))
    )
    inputs = {"x": x, "keys": keys, "values": values}
    return {name: tensor.to(dtype) for name, tensor in inputs.items()}, weight.to(dtype)


def selected(read: Read, x: Tensor, keys: Tensor) -> Tensor:
    """[B, T, S] which scores were kept, read off the output for values that pick one score each; needs S <= D."""
    slots, width = keys.shape[1:]
    assert slots <= width
    picks = torch.eye(slots, width, dtype=x.dtype).expand(x.shape[0], -1, -1)
    return read(x, keys, picks)[..., :slots] != 0
