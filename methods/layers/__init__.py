"""Building blocks that several methods share, named as in the authors' checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from methods import Handle, Images, Insert, Slot, VLModel

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


class VisualPrompt(nn.Module):
    """fc2(gelu(fc1(x))) of patches averaged to a smaller square grid: visual tokens for the input sequence.

    Source: LLaVA-1.5's `mlp2x_gelu` projector (fc1 and fc2 are its layers 0 and 2), initialised as torch does.
    """

    def __init__(self, vision_width: int, llm_width: int, *, tokens: int, hidden: int | None = None) -> None:
        super().__init__()
        self.tokens = tokens
        self.fc1 = nn.Linear(vision_width, hidden or llm_width)
        self.fc2 = nn.Linear(hidden or llm_width, llm_width)

    def forward(self, patches: Float[Tensor, "N P C"]) -> Float[Tensor, "N tokens D"]:
        """Project the pooled patches; they keep their row-major order."""
        return self.fc2(F.gelu(self.fc1(pool_grid(patches, self.tokens))))  # type: ignore[no-any-return]


def pool_grid(patches: Float[Tensor, "N P C"], tokens: int) -> Float[Tensor, "N {tokens} C"]:
    """Average the square, row-major patch grid to a square grid of `tokens`; P tokens are the patches themselves."""
    if tokens == patches.shape[1]:
        return patches
    side = math.isqrt(patches.shape[1])
    return F.adaptive_avg_pool2d(patches.mT.unflatten(2, (side, side)), math.isqrt(tokens)).flatten(2).mT


def attach_visual_prompt(model: VLModel, prompt: VisualPrompt) -> Handle:
    """Insert the visual tokens after BOS into every row with an image; rows without one stay as they are."""

    def read(images: Images) -> Tensor:
        return prompt(images.patches)  # type: ignore[no-any-return]

    return model.on_images(read, insert=Insert(tokens=prompt.tokens))


def prompt_tokens(model: VLModel, tokens: int | None) -> int:
    """How many visual tokens to insert: `tokens`, or as many as there are patches."""
    return model.shape.patches if tokens is None else tokens


def prompt_unmet(model: VLModel, tokens: int | None, *, field: str) -> str | None:
    """Why `tokens` visual tokens cannot be made of the model's patches, or None."""
    wanted = prompt_tokens(model, tokens)
    if math.isqrt(wanted) ** 2 != wanted or wanted > model.shape.patches:
        return f"{field}={wanted} is no square number up to the {model.shape.patches} patches of {model.name}"
    return None


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
    """Put the memories of the rows with an image into a batch, whatever their order; rows without one stay zero."""
    return memory.new_zeros(batch_size, *memory.shape[1:]).index_copy(0, rows, memory)


class SlotEmbeddings(nn.Module):
    """emb1 ~ N(0, 0.02) added to the keys and emb2 = 0 added to the values, shared by all layers."""

    def __init__(self, slots: int, width: int) -> None:
        super().__init__()
        self.adapter_emb1 = nn.Parameter(torch.randn(1, slots, width) * 0.02)
        self.adapter_emb2 = nn.Parameter(torch.zeros(1, slots, width))


class Memory(Slot):
    """The keys and values of one forward, made once and read by every layer."""

    value: tuple[Tensor, Tensor] | None = None

    def write(self, keys: Float[Tensor, "B S D"], values: Float[Tensor, "B S D"]) -> None:
        """Set what the layers of this forward read."""
        self.value = keys, values

    def reader(self, read: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """A branch for one layer: `read(x, keys, values)` in the dtype of x, cast once per forward."""

        def branch(x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
            if self.value is None:
                raise RuntimeError("a layer reads the memory before the image hook has written it")
            keys, values = self.value
            if keys.dtype != x.dtype:
                keys, values = self.value = keys.to(x.dtype), values.to(x.dtype)
            # Beams of one row lie side by side in the batch and read the same memory, as more tokens of that row.
            folded = x.reshape(len(keys), -1, x.shape[2])
            return read(folded, keys, values).reshape(x.shape)

        return branch
