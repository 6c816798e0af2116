"""Loading BEiT-3: shapes by name, official weights and tokenizer by path, or seeded random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from harness.backbones import BackboneError
from harness.backbones.beit3 import checkpoint
from harness.backbones.beit3.model import EncoderModel
from harness.backbones.beit3.multiway import BEiT3, BEiT3Shape, VisionEmbedding
from harness.backbones.beit3.text import FEWEST, byte_ids, sentencepiece_ids

SHAPES = {
    "beit3-base": BEiT3Shape(width=768, layers=12, heads=12, ffn=3072),
    "beit3-large": BEiT3Shape(width=1024, layers=24, heads=16, ffn=4096),
}


def load(
    name: str,
    *,
    weights_path: Path | None,
    tokenizer_path: Path | None,
    device: str,
    dtype: torch.dtype,
    text_tokens: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
    shape: BEiT3Shape | None = None,
) -> EncoderModel:
    """A frozen BEiT-3 in evaluation mode.

    Args:
        name: one of `SHAPES`, or any label when `shape` is given.
        weights_path: an official `.pth` or a `.safetensors` file; None for random weights.
        tokenizer_path: the official `beit3.spm`; None (for random weights and device `meta`) for one token per byte.
        device: `cpu`, `cuda:N`, or `meta` (shapes only, nothing is allocated).
        dtype: what the frozen weights are kept in.
        text_tokens: make every text so long, repeated or cut.
        image_size: pixels per side, a multiple of 16; the shape's own by default. Position embeddings follow.
        seed: of random weights.
        shape: sizes of a BEiT-3 without a name.

    Raises:
        BackboneError: weights without a tokenizer, a file that cannot be used (see `checkpoint.read` and
            `text.sentencepiece_ids`), an image size that is no multiple of the patch size.
    """
    sizes = shape or SHAPES[name]
    if image_size is not None:
        try:
            sizes = replace(sizes, image_size=image_size)
        except ValueError as error:
            raise BackboneError(f"{name}: {error}") from error
    if weights_path is not None and tokenizer_path is None and device != "meta":
        raise BackboneError(f"{weights_path}: these weights need their tokenizer; give the path of beit3.spm too")
    text = byte_ids() if tokenizer_path is None else sentencepiece_ids(tokenizer_path, vocab=sizes.vocab)
    if text_tokens is not None and text_tokens < FEWEST:
        raise BackboneError(
            f"--text-tokens {text_tokens}: a text of {name} begins with <s> and ends with </s>; give more"
        )
    text.exact_length = text_tokens
    with torch.device("meta"):
        encoder = BEiT3(sizes)
    head = None
    if weights_path is not None:
        weights = checkpoint.read(weights_path, encoder.state_dict())
        if device != "meta":
            encoder.load_state_dict(weights.encoder, assign=True)
        kept = torch.promote_types(dtype, torch.float32)
        head = weights.head and {part: tensor.to(device, kept) for part, tensor in weights.head.items()}
    elif device != "meta":
        _initialise(encoder.to_empty(device="cpu"), seed)
    encoder.requires_grad_(False).eval().to(device=device, dtype=dtype)
    folders = () if weights_path is None else (weights_path,)
    return EncoderModel(name, encoder, sizes, text, native_head=head, folders=folders)


def _initialise(encoder: nn.Module, seed: int) -> None:
    """Normal weights of deviation 0.02, as BEiT-3 starts from; LayerNorms as the identity, zero biases."""
    generator = torch.Generator().manual_seed(seed)
    for module in encoder.modules():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02, generator=generator)
            if not isinstance(module, nn.Embedding) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, VisionEmbedding):
            for token in (module.cls_token, module.mask_token):
                nn.init.normal_(token, std=0.02, generator=generator)
