"""Building blocks that several methods share, named as in the authors' checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from methods import Handle, VLModel

VISION_ADAPTER_SCALE = 0.1  # fixed in the authors' vision towers; not the methods' alpha


class Projector(nn.Module):
    """fc2(silu(fc1(x))): vision width C to language width D through a narrow middle.

    Source: ADEM-VL and MemVP `adapter_proj`; xavier weights, zero biases.
    """

    def __init__(self, vision_width: int, hidden: int, llm_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_width, hidden)
        self.fc2 = nn.Linear(hidden, llm_width)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Float[Tensor, "N P C"]) -> Float[Tensor, "N P D"]:
        """Project every token on its own."""
        return self.fc2(F.silu(self.fc1(features)))  # type: ignore[no-any-return]


class VisionAdapter(nn.Module):
    """0.1 * fc2(dropout(gelu(fc1(x)))), without biases; starts as zero. Sits beside a vision block's MLP."""

    def __init__(self, width: int, bottleneck: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, bottleneck, bias=False)
        self.fc2 = nn.Linear(bottleneck, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.fc1.weight)
        nn.init.zeros_(self.fc2.weight)

    def forward(self, normed: Float[Tensor, "N P C"]) -> Float[Tensor, "N P C"]:
        """The branch to add to the residual stream."""
        return VISION_ADAPTER_SCALE * self.fc2(self.dropout(F.gelu(self.fc1(normed))))  # type: ignore[no-any-return]


def vision_adapters(model: VLModel, bottleneck: int, dropout: float) -> nn.ModuleList:
    """One adapter per vision block, the unused last block of a CLIP tower included; none for a bottleneck of 0."""
    layers = model.shape.vision_layers if bottleneck else 0
    return nn.ModuleList(VisionAdapter(model.shape.vision_width, bottleneck, dropout) for _ in range(layers))


def attach_branches(model: VLModel, adapters: nn.ModuleList) -> list[Handle]:
    """Plug `adapters[i]` in beside the feed-forward network of vision block i."""
    return [model.on_ffn("vision", layer, adapter) for layer, adapter in enumerate(adapters)]


def scatter_rows(memory: Float[Tensor, "N S D"], rows: Tensor, batch_size: int) -> Float[Tensor, "B S D"]:
    """Put the memories of the rows with an image into a batch; rows without one stay zero."""
    if len(rows) == batch_size:
        return memory
    return memory.new_zeros(batch_size, *memory.shape[1:]).index_copy(0, rows, memory)


class SlotEmbeddings(nn.Module):
    """emb1 ~ N(0, 0.02) added to the keys and emb2 = 0 added to the values, shared by all layers."""

    def __init__(self, slots: int, width: int) -> None:
        super().__init__()
        self.adapter_emb1 = nn.Parameter(torch.randn(1, slots, width) * 0.02)
        self.adapter_emb2 = nn.Parameter(torch.zeros(1, slots, width))


class Memory:
    """The keys and values of one forward, made once and read by every layer."""

    def __init__(self) -> None:
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def write(self, keys: Float[Tensor, "B S D"], values: Float[Tensor, "B S D"]) -> None:
        """Set what the layers of this forward read."""
        self._keys, self._values = keys, values

    def reader(self, read: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """A branch for one layer: `read(x, keys, values)` in the dtype of x, cast once per forward."""

        def branch(x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
            if self._keys is None or self._values is None:
                raise RuntimeError("a layer reads the memory before the image hook has written it")
            if self._keys.dtype != x.dtype:
                self._keys, self._values = self._keys.to(x.dtype), self._values.to(x.dtype)
            return read(x, self._keys, self._values)

        return branch
