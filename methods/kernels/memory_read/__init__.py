"""Reading visual memory without a softmax: the one operation that ADEM-VL and MemVP add to each layer."""

import importlib.util
import os
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from methods.kernels.memory_read import reference

Form = Literal["adem", "memvp"]
Implementation = Literal["auto", "reference", "triton"]
MAX_WIDTH = 8192
MAX_SLOTS = 512
_HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def memory_read(
    x: Float[Tensor, "B T D"],
    keys: Float[Tensor, "B S D"],
    values: Float[Tensor, "B S D"],
    *,
    form: Form,
    drop_ratio: float = 0.0,
    dropout: float = 0.0,
    scale: float = 1.0,
    residual: Float[Tensor, "B T D"] | None = None,
    impl: Implementation = "auto",
) -> Float[Tensor, "B T D"]:
    """Every text token reads S memory slots; scores are used as they are, with no softmax and no scaling.

    Args:
        x: what reads. keys, values: the memory; the three share one dtype.
        form: `adem` = silu(x) silu(keys)^T; `memvp` = silu(x keys^T).
        drop_ratio: adem only; each token discards its int(drop_ratio * S) lowest signed scores. Scores equal to
            the lowest kept one stay too, so ties drop fewer. No gradient flows through the choice.
        dropout: memvp only; probability of zeroing a score, drawn from torch's generator. Pass 0 at evaluation.
        scale: factor on what was read. residual: added to it; None for nothing.
        impl: `auto` takes the fused kernels for CUDA tensors within their limits, else the reference; a named one
            that cannot run raises. See `unfit`.

    Returns:
        [B, T, D] in x.dtype: residual + scale * read; sums are kept in float32 or better.

    Raises:
        ValueError: unknown form or implementation, one that cannot run here, ratios outside [0, 1), an option of the
            other form, shapes or dtypes that do not agree, or a dtype that is not floating.
    Source: ADEM-VL adem/adapter.py, MemVP memvp/adapter.py.
    """
    _check(x, keys, values, residual, form)
    _check_ratios(form, drop_ratio, dropout)
    if choose(x, keys, impl)[0] == "triton":
        from methods.kernels.memory_read import operators

        rank = int(drop_ratio * keys.shape[1])
        return operators.read(
            x, keys, values, adem=form == "adem", rank=rank, dropout=dropout, scale=scale, residual=residual
        )
    adem = form == "adem"
    read = reference.adem(x, keys, values, drop_ratio) if adem else reference.memvp(x, keys, values, dropout)
    scaled = read if scale == 1 else scale * read
    return scaled if residual is None else residual + scaled


def choose(x: Tensor, keys: Tensor, impl: Implementation) -> tuple[Literal["reference", "triton"], str | None]:
    """Which implementation reads these tensors, and why it is the reference where `auto` would take the kernels.

    Raises:
        ValueError: the named one cannot, or there is none of that name.
    """
    if impl not in get_args(Implementation):
        raise ValueError(f"impl must be one of {get_args(Implementation)}, got {impl!r}")
    if impl == "reference" or (impl == "auto" and not x.is_cuda):
        return "reference", None
    reason = unfit(x.device, x.dtype, slots=keys.shape[1], width=keys.shape[2])
    if reason is None:
        return "triton", None
    if impl == "triton":
        raise ValueError(f"impl='triton': {reason}")
    return "reference", reason


def unavailable(device: torch.device) -> str | None:
    """Why no fused kernel can run on a device, whatever the tensors; None when it can."""
    if not _HAS_TRITON:
        return "Triton is not installed; pip install triton (it comes with CUDA builds of torch)"
    if device.type != "cuda" and not INTERPRETED:
        return f"Triton needs a CUDA device, got {device.type}; set TRITON_INTERPRET=1 to interpret it (slowly)"
    return None


def unfit(device: torch.device, dtype: torch.dtype, *, slots: int, width: int) -> str | None:
    """Why the fused kernels cannot read such a memory, or None."""
    if (reason := unavailable(device)) is not None:
        return reason
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"the kernels take float32, float16 and bfloat16, got {dtype}"
    if dtype == torch.bfloat16 and INTERPRETED:
        return "Triton's interpreter computes bfloat16 wrongly; use float32 or float16"
    if slots > MAX_SLOTS:
        return f"the kernels hold the scores of at most {MAX_SLOTS} slots on chip, got {slots}"
    if width > MAX_WIDTH:
        return f"the kernels are made for widths up to {MAX_WIDTH}, got {width}"
    return None


def _check(x: Tensor, keys: Tensor, values: Tensor, residual: Tensor | None, form: str) -> None:
    if form not in get_args(Form):
        raise ValueError(f"form must be one of {get_args(Form)}, got {form!r}")
    agree = x.ndim == keys.ndim == 3 and keys.shape == values.shape and x.shape[::2] == keys.shape[::2]
    if not agree:
        raise ValueError(
            "x [B, T, D], keys [B, S, D] and values [B, S, D] must agree, "
            f"got {tuple(x.shape)}, {tuple(keys.shape)}, {tuple(values.shape)}"
        )
    if keys.shape[1] == 0:
        raise ValueError(f"the memory needs at least one slot, got keys {tuple(keys.shape)}")
    if not x.is_floating_point() or not x.dtype == keys.dtype == values.dtype:
        raise ValueError(
            f"x, keys and values must share one floating dtype, got {x.dtype}, {keys.dtype}, {values.dtype}"
        )
    if residual is not None and (residual.shape, residual.dtype) != (x.shape, x.dtype):
        raise ValueError(
            f"residual must be like x, {tuple(x.shape)} {x.dtype}, got {tuple(residual.shape)} {residual.dtype}"
        )


def _check_ratios(form: str, drop_ratio: float, dropout: float) -> None:
    for name, ratio in (("drop_ratio", drop_ratio), ("dropout", dropout)):
        if not 0 <= ratio < 1:
            raise ValueError(f"{name} must be in [0, 1), got {ratio}")
    if form == "adem" and dropout:
        raise ValueError(f"dropout belongs to form 'memvp', got {dropout} with 'adem'")
    if form == "memvp" and drop_ratio:
        raise ValueError(f"drop_ratio belongs to form 'adem', got {drop_ratio} with 'memvp'")
