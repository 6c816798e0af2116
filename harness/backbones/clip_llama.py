"""Loading: Hugging Face folders or hub ids, the shipped and converted backbones, random weights at given shapes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    SiglipVisionModel,
)

from harness.backbones import BackboneError, BackboneSpec, Precision, expanded, folders, names
from harness.backbones.decoder import DecoderModel, Normalisation
from harness.backbones.encoding import TextEncoder
from harness.backbones.smol_convert import DINOV2_SMALL
from harness.backbones.vision import VisionTower
from tasks.io import pictures

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LLM_TYPES = ("llama", "mistral", "qwen2")  # a pre-norm FFN whose output joins the residual stream directly
CLIP, IMAGENET = Normalisation(*pictures.CLIP), Normalisation(*pictures.IMAGENET)
HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
DINOV2_IMAGE_SIZE = 224  # its config names 518; position embeddings are interpolated, as in its own evaluations
MOST_LAYERS = 1_000  # of random weights, which no file limits
MINI_WEIGHTS = Path(__file__).parent / "mini" / "weights"

_LLAMA = {"vocab_size": 32000, "max_position_embeddings": 2048}
LLM_SHAPES: dict[str, dict[str, Any]] = {
    "llama-7b": _LLAMA
    | {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "llama-13b": _LLAMA
    | {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
    "smol": {
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
        "tie_word_embeddings": True,
    },
}
VIT_L14 = CLIPVisionConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    patch_size=14,
    image_size=224,
)


def load(spec: BackboneSpec, *, device: str, precision: Precision, cache: Path) -> DecoderModel:
    """See `harness.backbones.load`."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    sources = _sources(spec, cache)
    dtype = DTYPES[precision]
    if spec.weights == "random" or sources is None:
        llm, tokenizer, encoder, images = _random(spec, sources, device, dtype)
    else:
        llm, tokenizer = load_llm(sources[0], dtype)
        encoder, images = load_vision(sources[1], dtype)
    for part in (llm, encoder):
        part.requires_grad_(False).eval().to(device)
    tower = VisionTower(encoder, image_size=image_size(encoder.config))
    pair = f"{Path(spec.llm).name}+{Path(spec.vision).name}" if spec.llm and spec.vision else None
    name = spec.name if pair is None or spec.name in names() else pair
    text = _text(tokenizer, llm, source=spec.name if sources is None else sources[0], length=spec.text_tokens)
    places = () if spec.weights == "random" or sources is None else tuple(map(folders.folder, sources))
    return DecoderModel(name, llm, tower, text, images, places)


def _context(llm: PreTrainedModel) -> int:
    """Positions that every token can look back on: with attention that slides, no more than its window."""
    positions: int = llm.config.max_position_embeddings
    window: int | None = getattr(llm.config, "sliding_window", None)
    return positions if window is None else min(positions, window)


def _text(tokenizer: PreTrainedTokenizerBase, llm: PreTrainedModel, *, source: str, length: int | None) -> TextEncoder:
    """The tokenizer, once used: what is wrong with it is to be found before any run."""
    with folders.readable(source, "tokenizer"):
        text = TextEncoder(tokenizer, max_length=_context(llm), exact_length=length)
        text.length("a text", " and more")
        rows = len(getattr(llm.get_input_embeddings(), "weight", ()))
    special = [*text.bos, *text.eos, text.pad_id]
    if odd := [number for number in special if not 0 <= number < rows]:
        raise BackboneError(
            f"{source}: the tokenizer has a special token {odd[0]}, the model {rows} tokens; take its own"
        )
    return text


def _sources(spec: BackboneSpec, cache: Path) -> tuple[str, str] | None:
    """The (LLM, vision) folders or hub ids of a backbone; None for one that is only a shape."""
    if spec.llm and spec.vision:
        return expanded(spec.llm), expanded(spec.vision)
    if spec.name == "mini":
        return str(MINI_WEIGHTS / "llm"), str(MINI_WEIGHTS / "vision")
    if spec.name == "smol" and spec.weights == "pretrained":
        from harness.backbones import smol_weights

        try:
            llm, vision = smol_weights.ensure(cache / "smol")
        except (smol_weights.BackboneUnavailable, ValueError) as error:
            raise BackboneError(str(error)) from error
        return str(llm), str(vision)
    return None


def load_llm(source: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A Llama-like decoder and its tokenizer from a folder or a hub id.

    Raises:
        BackboneError: see `harness.backbones.load`.
    """
    config = folders.config(source)
    if config.model_type not in LLM_TYPES:
        raise BackboneError(f"{source}: model type {config.model_type!r} is not one of {', '.join(LLM_TYPES)}")
    with folders.readable(source, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    folders.check_claims(source, config, AutoModelForCausalLM.from_config)
    return folders.weights(AutoModelForCausalLM, source, dtype), tokenizer


def load_vision(source: str, dtype: torch.dtype) -> tuple[PreTrainedModel, Normalisation]:
    """A CLIP, SigLIP or DINOv2 encoder and the image constants it was trained with.

    Raises:
        BackboneError: see `harness.backbones.load`.
    """
    config = folders.config(source)
    family = _family(config, source)
    folders.check_claims(source, getattr(config, "vision_config", config), family.encoder._from_config)
    return folders.weights(family.encoder, source, dtype), folders.normalisation(source, family.images)


@dataclass(frozen=True)
class _Family:
    encoder: type[PreTrainedModel]
    images: Normalisation


FAMILIES = {
    "clip": _Family(CLIPVisionModel, CLIP),
    "siglip": _Family(SiglipVisionModel, HALF),
    "dinov2": _Family(Dinov2Model, IMAGENET),
}


def _family(config: PretrainedConfig, source: str) -> _Family:
    kind = config.model_type.removesuffix("_vision_model")
    if kind not in FAMILIES:
        raise BackboneError(f"{source}: model type {config.model_type!r} is not one of {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def image_size(config: PretrainedConfig) -> int:
    """Pixels per side that the tower is fed."""
    return DINOV2_IMAGE_SIZE if config.model_type == "dinov2" else int(config.image_size)


def _random(
    spec: BackboneSpec, sources: tuple[str, str] | None, device: str, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, PreTrainedModel, Normalisation]:
    """Seeded random weights (or none, on the meta device) at the shapes of a backbone."""
    llm_config: PretrainedConfig
    vision_config: PretrainedConfig
    if sources is None:
        llm_config = LlamaConfig(**LLM_SHAPES[spec.name])
        vision_config = Dinov2Config(**DINOV2_SMALL) if spec.name == "smol" else VIT_L14
        family = _family(vision_config, spec.name)
    else:
        llm_config, vision_config = folders.config(sources[0]), folders.config(sources[1])
        family = _family(vision_config, sources[1])
        vision_config = getattr(vision_config, "vision_config", vision_config)
    label = spec.name if sources is None else " and ".join(sources)
    with folders.readable(label, "config"), torch.random.fork_rng(devices=[]), torch.device(device):
        for config in (llm_config, vision_config):
            if config.num_hidden_layers > MOST_LAYERS:
                raise BackboneError(f"{label}: {config.num_hidden_layers} layers are more than {MOST_LAYERS:,}")
        if spec.layers is not None:
            llm_config.num_hidden_layers, vision_config = spec.layers[0], copy.copy(vision_config)
            vision_config.num_hidden_layers = spec.layers[1]
        torch.default_generator.manual_seed(0)
        llm = AutoModelForCausalLM.from_config(llm_config, dtype=dtype)
        encoder = family.encoder._from_config(vision_config, dtype=dtype)
    return llm, byte_tokenizer(), encoder, family.images


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """One token per byte: what random weights are measured with, as they have no vocabulary of their own."""
    alphabet = ["<unk>", "<s>", "</s>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
