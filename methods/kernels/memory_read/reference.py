"""The specification of `memory_read`, in plain torch: what every other implementation is tested against."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def adem(
    x: Float[Tensor, "B T D"], keys: Float[Tensor, "B S D"], values: Float[Tensor, "B S D"], drop_ratio: float
) -> Float[Tensor, "B T D"]:
    """ADEM-VL (arXiv 2410.17779), III-B and III-D: silu(x) silu(keys)^T, lowest scores dropped, times values."""
    scores = F.silu(x) @ F.silu(keys).mT
    if drop_ratio > 0:
        rank = int(drop_ratio * keys.shape[1]) + 1
        threshold = torch.topk(scores.detach(), rank, largest=False).values[..., -1:]
        scores = scores.masked_fill(scores < threshold, 0)  # ties at the threshold stay
    return scores @ values


def memvp(
    x: Float[Tensor, "B T D"], keys: Float[Tensor, "B S D"], values: Float[Tensor, "B S D"], dropout: float
) -> Float[Tensor, "B T D"]:
    """MemVP (arXiv 2405.05615), section 3: silu(x keys^T), dropout on the scores in training, times values."""
    return F.dropout(F.silu(x @ keys.mT), dropout) @ values
