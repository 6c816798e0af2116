"""Tiny random backbones as Hugging Face folders, for tests that need a real model but no knowledge."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from harness.backbones.clip_llama import byte_tokenizer

LLM = {"initializer_range": 0.1, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2}
TEXT = {"vocab_size": 260, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
VISION = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 14, "image_size": 56}


def write_tiny_backbone(folder: Path, *, vision: str = "clip") -> tuple[Path, Path]:
    """A two-layer Llama with a byte tokenizer and a three-block vision tower (16 patches); (llm, vision) folders."""
    torch.manual_seed(0)
    llm, tower = folder / "llm", folder / vision
    LlamaForCausalLM(LlamaConfig(**LLM, **TEXT, num_attention_heads=4)).save_pretrained(llm)
    byte_tokenizer().save_pretrained(llm)
    if vision == "clip":
        encoder = CLIPVisionModel(CLIPVisionConfig(**VISION, intermediate_size=64))
    elif vision == "siglip":
        encoder = SiglipVisionModel(SiglipVisionConfig(**VISION, intermediate_size=64))
    else:
        encoder = Dinov2Model(Dinov2Config(**VISION, mlp_ratio=2))
    encoder.save_pretrained(tower)
    return llm, tower
