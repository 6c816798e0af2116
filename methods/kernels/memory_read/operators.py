"""The fused `memory_read` and its backward as operators of torch, which launch the kernels of `triton.py`.

Each with its shapes for compilation and its FLOPs; the first with its gradient. Imported where `triton.py` may be.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from methods.kernels.memory_read import triton as kernels


@torch.library.custom_op("vltune::memory_read", mutates_args=())
def _forward(
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    residual: Tensor | None,
    seed: Tensor | None,
    adem: bool,
    rank: int,
    dropout: float,
    scale: float,
    keep_mask: bool,
) -> tuple[Tensor, Tensor]:
    """The read, and which scores were kept ([B, T, S], or nothing where the backward will not ask)."""
    x, keys, values = x.contiguous(), keys.contiguous(), values.contiguous()
    batch, tokens, width = x.shape
    slots = keys.shape[1]
    head, tail = kernels._split(slots)
    out, mask = _empty(x, slots, kept=keep_mask and adem and rank > 0)
    kernels.read_tuned[lambda meta: (triton.cdiv(tokens, meta["BLOCK_T"]), batch)](
        x, keys, values, x if residual is None else residual.contiguous(), x if seed is None else seed, out, mask,
        tokens, rank, dropout, scale, SLOTS=slots, WIDTH=width, HEAD=head, TAIL=tail, ADEM=adem,
        DROPS=rank > 0 or dropout > 0, RESIDUAL=residual is not None, MASK=mask.numel() > 0, BITS=x.itemsize * 8,
    )  # fmt: skip
    return out, mask


def _empty(x: Tensor, slots: int, *, kept: bool) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], x.shape[1], slots) if kept else (0,)
    return torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty(shape, dtype=torch.uint8)


@_forward.register_fake
def _(
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    residual: Tensor | None,
    seed: Tensor | None,
    adem: bool,
    rank: int,
    dropout: float,
    scale: float,
    keep_mask: bool,
) -> tuple[Tensor, Tensor]:
    return _empty(x, keys.shape[1], kept=keep_mask and adem and rank > 0)


@torch.library.custom_op("vltune::memory_read_backward", mutates_args=())
def _backward(
    grad: Tensor,
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    seed: Tensor | None,
    adem: bool,
    dropout: float,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, keys and values."""
    grad, x, keys, values = grad.contiguous(), x.contiguous(), keys.contiguous(), values.contiguous()
    batch, tokens, width = x.shape
    slots = keys.shape[1]
    head, tail = kernels._split(slots)
    weights, slopes = x.new_empty(batch, tokens, slots), x.new_empty(batch, tokens, slots)
    x_grad, keys_grad, values_grad = torch.empty_like(x), torch.empty_like(keys), torch.empty_like(values)
    shared = {"SLOTS": slots, "WIDTH": width, "ADEM": adem, "BITS": x.itemsize * 8}
    kernels.read_backward_tuned[lambda meta: (triton.cdiv(tokens, meta["BLOCK_T"]), batch)](
        x, keys, values, x if seed is None else seed, mask, grad, weights, slopes, x_grad, tokens, dropout, scale,
        HEAD=head, TAIL=tail, DROPS=mask.numel() > 0 or dropout > 0, **shared,
    )  # fmt: skip
    kernels.sum_backward_tuned[
        lambda meta: (triton.cdiv(slots, meta["BLOCK_S"]), triton.cdiv(width, meta["BLOCK_D"]), batch)
    ](x, keys, grad, weights, slopes, keys_grad, values_grad, tokens, scale, **shared)
    return x_grad, keys_grad, values_grad


@_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    seed: Tensor | None,
    adem: bool,
    dropout: float,
    scale: float,
) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, keys, values))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, keys, values, residual, seed, adem, _, dropout, scale, _ = inputs
    ctx.save_for_backward(x, keys, values, output[1], seed)
    ctx.options = (adem, dropout, scale)
    ctx.has_residual = residual is not None
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, keys, values, mask, seed = ctx.saved_tensors
    grads = _backward(grad, x, keys, values, mask, seed, *ctx.options)
    return (*grads, grad if ctx.has_residual else None, *[None] * 6)


_forward.register_autograd(_differentiate, setup_context=_remember)


@register_flop_formula(torch.ops.vltune.memory_read)
def _forward_flops(x: torch.Size, keys: torch.Size, *_: Any, **__: Any) -> int:
    """Two products of B x T x S x D."""
    return 4 * x.numel() * keys[1]


@register_flop_formula(torch.ops.vltune.memory_read_backward)
def _backward_flops(grad: torch.Size, x: torch.Size, keys: torch.Size, *_: Any, **__: Any) -> int:
    """Four products; the recomputed scores are not counted, so that every implementation counts the same."""
    return 8 * x.numel() * keys[1]


def read(
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    adem: bool,
    rank: int,
    dropout: float,
    scale: float,
    residual: Tensor | None,
) -> Tensor:
    """See `methods.kernels.memory_read.memory_read`; `rank` is how many scores each token drops."""
    seed = torch.randint(2**31, (1,), device=x.device) if dropout else None
    keep_mask = torch.is_grad_enabled() and (x.requires_grad or keys.requires_grad or values.requires_grad)
    out: Tensor = _forward(x, keys, values, residual, seed, adem, rank, dropout, scale, keep_mask)[0]
    return out
