"""The frozen vision tower: any Hugging Face CLIP, SigLIP or DINOv2 encoder, read as ADEM-VL and MemVP read it."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.backbones import BackboneError


class VisionTower(nn.Module):
    """Image to token features through the blocks and the final LayerNorm, without any projection.

    CLIP and SigLIP: all blocks but the last (the last is trained for pooling alone), then `post_layernorm` on every
    token = `post_layernorm(hidden_states[-2])`. DINOv2: all blocks, then `layernorm`.

    Deviation: for `llava` too, so that all methods read the same features; LLaVA itself reads `hidden_states[-2]`.
    """

    encoder: Any  # its parts are named by the family, which type stubs do not know

    def __init__(self, encoder: PreTrainedModel, *, image_size: int) -> None:
        super().__init__()
        self.encoder = encoder
        kind = encoder.config.model_type
        if kind not in ("clip_vision_model", "siglip_vision_model", "dinov2"):
            raise BackboneError(f"vision model type {kind!r} is not supported: use CLIP, SigLIP or DINOv2")
        self.is_dinov2 = kind == "dinov2"
        self.has_cls = kind != "siglip_vision_model"
        self.image_size = image_size
        self.patches = (image_size // encoder.config.patch_size) ** 2
        self.width = encoder.config.hidden_size

    @property
    def blocks(self) -> nn.ModuleList:
        """Every block, the unused last one of CLIP and SigLIP included."""
        found = self.encoder.encoder
        return found.layer if self.is_dinov2 else found.layers  # type: ignore[no-any-return]

    def ffn_site(self, layer: int) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Norm before the feed-forward network, what reads its output, and what writes into the residual stream."""
        block: Any = self.blocks[layer]
        if self.is_dinov2:
            return block.norm2, block.mlp, block.layer_scale2
        return block.layer_norm2, block.mlp, block.mlp

    def forward(self, pixel_values: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N tokens C"]:
        """[N, 1 + P, C] with the CLS token first, or [N, P, C] without one."""
        hidden = self._embed(pixel_values)
        used = self.blocks if self.is_dinov2 else self.blocks[:-1]
        for block in used:
            hidden = block(hidden, None)
        norm = self.encoder.layernorm if self.is_dinov2 else self.encoder.post_layernorm
        return norm(hidden)  # type: ignore[no-any-return]

    def _embed(self, pixel_values: Tensor) -> Tensor:
        weight = next(self.encoder.parameters())
        embedded = self.encoder.embeddings(pixel_values.to(weight.dtype))
        if self.encoder.config.model_type == "clip_vision_model":
            embedded = self.encoder.pre_layrnorm(embedded)
        return embedded  # type: ignore[no-any-return]
