"""The BEiT-3 multiway encoder (arXiv 2208.10442) under the parameter names of the official checkpoints.

A sequence is `split` vision tokens and then text tokens: an image alone, a text alone (split 0), or both, fused. Every
linear layer, LayerNorm and position table has two experts, A for vision and B for text tokens; attention is over all.

Deviation: no dropout and no drop path, as the encoder is frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

FIRST_POSITION = 2  # in both tables, a habit of fairseq's that the official weights were trained with


@dataclass(frozen=True)
class BEiT3Shape:
    """Sizes of a BEiT-3: width and layers of the encoder, pixels per side of a patch and of the (square) image."""

    width: int
    layers: int
    heads: int
    ffn: int
    patch: int = 16
    image_size: int = 224
    vocab: int = 64010
    text_positions: int = 1024

    def __post_init__(self) -> None:
        if self.image_size % self.patch:
            raise ValueError(f"image_size must be a multiple of the patch size {self.patch}, got {self.image_size}")

    @property
    def patches(self) -> int:
        """P, patches of one image."""
        return (self.image_size // self.patch) ** 2

    @property
    def vision_positions(self) -> int:
        """Rows of the vision table: two that are never read, one of the CLS token, one per patch."""
        return FIRST_POSITION + 1 + self.patches


class Multiway(nn.Module):
    """Expert A for the first `split` tokens, expert B for the others."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.A, self.B = make(), make()

    def forward(self, x: Float[Tensor, "B S D"], split: int) -> Float[Tensor, "B S E"]:
        """Each token through its own expert; an expert without tokens is not called."""
        if split == 0:
            return self.B(x)  # type: ignore[no-any-return]
        if split == x.shape[1]:
            return self.A(x)  # type: ignore[no-any-return]
        return torch.cat([self.A(x[:, :split]), self.B(x[:, split:])], dim=1)


class FeedForward(nn.Module):
    """fc2(LN(gelu(fc1(x)))): the LayerNorm over the hidden width is what BEiT-3 calls sub-LN."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.ffn_layernorm = nn.LayerNorm(hidden)

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """Every token on its own."""
        return self.fc2(self.ffn_layernorm(F.gelu(self.fc1(x))))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Softmax attention over all tokens, with a LayerNorm before the output projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            Multiway(lambda: nn.Linear(width, width)) for _ in range(4)
        )
        self.inner_attn_ln = Multiway(lambda: nn.LayerNorm(width))

    def forward(
        self, x: Float[Tensor, "B S D"], split: int, visible: Bool[Tensor, "B S"] | None
    ) -> Float[Tensor, "B S D"]:
        """`visible` names the tokens that may be looked at; None for all."""
        q, k, v = (
            project(x, split).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mask = None if visible is None else visible[:, None, None, :]
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        return self.out_proj(self.inner_attn_ln(read, split), split)  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """x1 = x + attention(LN x); x1 + FFN(LN x1)."""

    def __init__(self, shape: BEiT3Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape.width, shape.heads)
        self.self_attn_layer_norm = Multiway(lambda: nn.LayerNorm(shape.width))
        self.ffn = Multiway(lambda: FeedForward(shape.width, shape.ffn))
        self.final_layer_norm = Multiway(lambda: nn.LayerNorm(shape.width))

    def forward(
        self, x: Float[Tensor, "B S D"], split: int, visible: Bool[Tensor, "B S"] | None
    ) -> Float[Tensor, "B S D"]:
        """One block."""
        x = x + self.self_attn(self.self_attn_layer_norm(x, split), split, visible)
        return x + self.ffn(self.final_layer_norm(x, split), split)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Position tables, blocks and the final LayerNorm."""

    def __init__(self, shape: BEiT3Shape) -> None:
        super().__init__()
        self.embed_positions = nn.ModuleDict(
            {
                "A": nn.Embedding(shape.vision_positions, shape.width),
                "B": nn.Embedding(shape.text_positions, shape.width),
            }
        )
        self.layers = nn.ModuleList(EncoderLayer(shape) for _ in range(shape.layers))
        self.layer_norm = Multiway(lambda: nn.LayerNorm(shape.width))

    def positions(self, expert: str, length: int) -> Float[Tensor, "length D"]:
        """Position embeddings of the first `length` tokens of one modality."""
        table: Tensor = self.embed_positions[expert].weight  # type: ignore[assignment]
        return table[FIRST_POSITION : FIRST_POSITION + length]

    def forward(
        self, x: Float[Tensor, "B S D"], split: int, visible: Bool[Tensor, "B S"] | None
    ) -> Float[Tensor, "B S D"]:
        """Embedded tokens to final hidden states."""
        for layer in self.layers:
            x = layer(x, split, visible)
        return self.layer_norm(x, split)  # type: ignore[no-any-return]


class VisionEmbedding(nn.Module):
    """Patches to tokens, behind a CLS token. The mask token of pretraining is kept for its place in checkpoints."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch, stride=patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, pixels: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 1+P D"]:
        """CLS and then the patches, row-major."""
        patches = self.proj(pixels).flatten(2).mT
        return torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)


class BEiT3(nn.Module):
    """Embeddings and encoder; its names are those of the official checkpoints after their prefix `beit3.`."""

    def __init__(self, shape: BEiT3Shape) -> None:
        super().__init__()
        self.text_embed = nn.Embedding(shape.vocab, shape.width)
        self.vision_embed = VisionEmbedding(shape.width, shape.patch)
        self.encoder = Encoder(shape)

    def embed_images(self, pixels: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 1+P D"]:
        """Vision tokens with their positions."""
        tokens = self.vision_embed(pixels.to(self.text_embed.weight.dtype))
        return tokens + self.encoder.positions("A", tokens.shape[1])  # type: ignore[no-any-return]

    def embed_texts(self, ids: Int[Tensor, "B T"], visible: Bool[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Text tokens with their positions; padding is zero."""
        tokens = self.text_embed(ids) + self.encoder.positions("B", ids.shape[1])
        return tokens * visible[..., None]  # type: ignore[no-any-return]
