"""Reading visual memory without a softmax: the one operation that ADEM-VL and MemVP add to each layer."""

from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from methods.kernels.memory_read import reference

Form = Literal["adem", "memvp"]
Implementation = Literal["auto", "reference"]


def memory_read(
    x: Float[Tensor, "B T D"],
    keys: Float[Tensor, "B S D"],
    values: Float[Tensor, "B S D"],
    *,
    form: Form,
    drop_ratio: float = 0.0,
    dropout: float = 0.0,
    impl: Implementation = "auto",
) -> Float[Tensor, "B T D"]:
    """Every text token reads S memory slots; scores are used as they are, with no softmax and no scaling.

    Args:
        x: what reads. keys, values: the memory; the three share one dtype.
        form: `adem` = silu(x) silu(keys)^T; `memvp` = silu(x keys^T).
        drop_ratio: adem only; each token discards its int(drop_ratio * S) lowest signed scores. Scores equal to
            the lowest kept one stay too, so ties drop fewer. No gradient flows through the choice.
        dropout: memvp only; probability of zeroing a score. Pass 0 at evaluation.
        impl: `auto` takes the best one available; a named one that cannot run raises.

    Returns:
        [B, T, D] in x.dtype; sums are kept in float32 or better by the matrix product itself.

    Raises:
        ValueError: unknown form or implementation, ratios outside [0, 1), an option of the other form, shapes or
            dtypes that do not agree, or a dtype that is not floating.
    Source: ADEM-VL adem/adapter.py, MemVP memvp/adapter.py.
    """
    _check(x, keys, values, form, impl)
    for name, ratio in (("drop_ratio", drop_ratio), ("dropout", dropout)):
        if not 0 <= ratio < 1:
            raise ValueError(f"{name} must be in [0, 1), got {ratio}")
    if form == "adem":
        if dropout:
            raise ValueError(f"dropout belongs to form 'memvp', got {dropout} with 'adem'")
        return reference.adem(x, keys, values, drop_ratio)
    if drop_ratio:
        raise ValueError(f"drop_ratio belongs to form 'adem', got {drop_ratio} with 'memvp'")
    return reference.memvp(x, keys, values, dropout)


def _check(x: Tensor, keys: Tensor, values: Tensor, form: str, impl: str) -> None:
    if form not in get_args(Form):
        raise ValueError(f"form must be one of {get_args(Form)}, got {form!r}")
    if impl not in get_args(Implementation):
        raise ValueError(f"impl must be one of {get_args(Implementation)}, got {impl!r}")
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
