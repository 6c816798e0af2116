"""`bench memory-read`: one layer's read, forward and backward, by every implementation that runs here."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from harness.bench import ceiling, naive
from harness.bench.result import BenchError, Case, Target, at_least, rows
from harness.bench.timing import alternate
from methods.kernels.memory_read import Form, memory_read, unfit

Read = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Size:
    """Rows, text tokens, memory slots and width of one read."""

    batch: int
    tokens: int
    slots: int
    width: int


SIZES: dict[str, Size] = {
    "cuda": Size(8, 512, 320, 4096),
    "cpu": Size(8, 192, 320, 576),
    "reduced": Size(2, 33, 20, 48),
}
OPTIONS: dict[Form, dict[str, Any]] = {"adem": {"drop_ratio": 0.1}, "memvp": {}}


def run(device: torch.device, *, dtype: torch.dtype, reduced: bool) -> list[Case]:
    """Both forms at this device's size.

    Raises:
        BenchError: an implementation disagrees with float64 more than the reference does.
    """
    size = SIZES["reduced" if reduced else device.type]
    limits = ceiling.measure(device, dtype, reduced=reduced)
    return [_case(form, size, device, dtype, limits, reduced=reduced) for form in ("adem", "memvp")]


def _case(
    form: Form, size: Size, device: torch.device, dtype: torch.dtype, limits: ceiling.Ceiling, *, reduced: bool
) -> Case:
    given = inputs(size, device, dtype)
    reads, notes = implementations(form, given, reduced=reduced)
    for name, read in reads.items():
        _check(name, read, reads["reference"], given, form)
    work = _work(size, dtype)
    bound = limits.roofline_ms(**work)
    cuda = device.type == "cuda"
    timings = alternate(
        {name: functools.partial(forward_backward, read, *given) for name, read in reads.items()},
        device=device,
        rounds=2 if reduced else 30 if cuda else 5,
        calls=10 if cuda and not reduced else 1,
        warm_up=1,
    )
    median = {name: timing.ms.median for name, timing in timings.items()}
    targets = _targets(median, bound) if form == "adem" and cuda and not reduced else ()
    conditions = {
        "form": form,
        "B": size.batch,
        "T": size.tokens,
        "S": size.slots,
        "D": size.width,
        "dtype": str(dtype).removeprefix("torch."),
        "device": device.type,
        **OPTIONS[form],
    }
    figures = {**work, "roofline_ms": bound, "copy_bytes_per_s": limits.copy_bytes_per_s}
    figures["matmul_flops_per_s"] = limits.matmul_flops_per_s
    return Case(
        f"memory_read, {form}, forward + backward",
        conditions,
        rows(timings, roofline_ms=bound),
        targets,
        notes,
        figures,
    )


def _targets(median: dict[str, float], bound: float) -> list[Target]:
    fast = median["triton"]
    compiled = median.get("torch.compile of the reference")
    against_compile = "Triton kernel against torch.compile"
    return [
        at_least("Triton kernel against the naive formula", median["naive"] / fast, 6),
        Target(against_compile, "at least 2 x", None, None)
        if compiled is None
        else at_least(against_compile, compiled / fast, 2),
        at_least("Triton kernel, share of the roofline", 100 * bound / fast, 50, "%"),
    ]


def inputs(size: Size, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """x, keys, values and the gradient of the output; scores of order one, as in a trained model."""
    generator = torch.Generator().manual_seed(0)
    text, memory = (size.batch, size.tokens, size.width), (size.batch, size.slots, size.width)
    made = [torch.randn(shape, generator=generator) for shape in (text, memory, memory, text)]
    made[1] *= size.width**-0.5
    return [tensor.to(device, dtype) for tensor in made]


def implementations(form: Form, given: list[Tensor], *, reduced: bool) -> tuple[dict[str, Read], list[str]]:
    """What runs here, and why the others do not."""
    options = OPTIONS[form]

    def by(impl: Literal["reference", "triton"]) -> Read:
        return functools.partial(memory_read, form=form, impl=impl, **options)

    slow = naive.read_adem if form == "adem" else naive.read_memvp
    ratio = options.get("drop_ratio", 0.0)
    reads: dict[str, Read] = {
        "naive": lambda x, keys, values: slow(x, keys, values, ratio),
        "reference": by("reference"),
    }
    notes = []
    if reduced:
        notes.append("torch.compile: left out of the reduced size")
    elif given[0].device.type == "cpu" and shutil.which("g++") is None and shutil.which("clang++") is None:
        notes.append("torch.compile: needs a C++ compiler, and there is none")
    else:
        reads["torch.compile of the reference"] = torch.compile(by("reference"), fullgraph=True)
    reason = unfit(given[0].device, given[0].dtype, slots=given[1].shape[1], width=given[1].shape[2])
    if reason is None:
        reads["triton"] = by("triton")
    else:
        notes.append(f"triton: {reason}")
    return reads, notes


def forward_backward(read: Read, *given: Tensor) -> list[Tensor]:
    """The output and the gradients of x, keys and values."""
    x, keys, values = (tensor.detach().requires_grad_() for tensor in given[:3])
    out = read(x, keys, values)
    return [out.detach(), *torch.autograd.grad(out, (x, keys, values), given[3])]


def _check(name: str, read: Read, reference: Read, given: list[Tensor], form: Form) -> None:
    """DESIGN's error rule on the whole of each tensor (of two nearly equal scores either may fall)."""
    exact = forward_backward(reference, *[tensor.double() for tensor in given])
    allowed = [_error(a, b) for a, b in zip(forward_backward(reference, *given), exact, strict=True)]
    found = [_error(a, b) for a, b in zip(forward_backward(read, *given), exact, strict=True)]
    eps = torch.finfo(given[0].dtype).eps
    for what, error, limit in zip(("output", "grad of x", "of keys", "of values"), found, allowed, strict=True):
        if not error <= 2 * limit + eps:
            raise BenchError(f"{form} by {name}: {what} is off by {error:.2e}, the reference by {limit:.2e}")


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


def _work(size: Size, dtype: torch.dtype) -> dict[str, float]:
    """Six products of B x T x S x D, and every tensor moved once: x, keys, values in and out in both directions."""
    text, memory = size.batch * size.tokens * size.width, size.batch * size.slots * size.width
    moved = (2 * text + 2 * memory) + (3 * text + 4 * memory)  # forward; x, grad, keys, values in and 3 gradients out
    return {
        "flops": 12.0 * size.batch * size.tokens * size.slots * size.width,
        "moved_bytes": float(moved * dtype.itemsize),
    }
