"""A tiny BEiT-3 with random weights: three layers, 16 patches, one token per byte."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from harness.backbones.beit3.load import load
from harness.backbones.beit3.model import EncoderModel
from harness.backbones.beit3.multiway import BEiT3Shape

TINY = BEiT3Shape(width=64, layers=3, heads=4, ffn=128, patch=14, image_size=56, vocab=300, text_positions=80)


def tiny_beit3(*, image_size: int | None = None, device: str = "cpu", seed: int = 0) -> EncoderModel:
    """Freshly made; the same seed gives the same weights."""
    nothing: dict[str, Path | None] = {"weights_path": None, "tokenizer_path": None}
    options = {"device": device, "dtype": torch.float32, "image_size": image_size, "seed": seed}
    return load("tiny-beit3", shape=TINY, **nothing, **options)  # type: ignore[arg-type]


def write_checkpoint(model: EncoderModel, path: Path, extra: dict[str, Tensor] | None = None) -> Path:
    """The model's weights under the official names and below `model`, as the official `.pth` files hold them."""
    state = {f"beit3.{name}": tensor for name, tensor in model.encoder.state_dict().items()}
    torch.save({"model": state | (extra or {})}, path)
    return path
