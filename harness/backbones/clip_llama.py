"""Loading: Hugging Face folders or hub ids, the shipped and converted backbones, random weights at given shapes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
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

from harness.backbones import BackboneError, BackboneSpec, Precision, names
from harness.backbones.decoder import DecoderModel, Normalisation
from harness.backbones.encoding import TextEncoder
from harness.backbones.vision import VisionTower

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LLM_TYPES = ("llama", "mistral", "qwen2")  # a pre-norm FFN whose output joins the residual stream directly
CLIP = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
DINOV2_IMAGE_SIZE = 224  # its config names 518; position embeddings are interpolated, as in its own evaluations
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
DINOV2_SMALL = Dinov2Config(
    hidden_size=384,
    num_hidden_layers=12,
    num_attention_heads=6,
    patch_size=14,
    image_size=518,
    use_mask_token=False,
)
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
    text = TextEncoder(tokenizer, max_length=llm.config.max_position_embeddings)
    folders = () if spec.weights == "random" or sources is None else tuple(map(_folder, sources))
    return DecoderModel(name, llm, tower, text, images, folders)


def _sources(spec: BackboneSpec, cache: Path) -> tuple[str, str] | None:
    """The (LLM, vision) folders or hub ids of a backbone; None for one that is only a shape."""
    if spec.llm and spec.vision:
        return spec.llm, spec.vision
    if spec.name == "mini":
        return str(MINI_WEIGHTS / "llm"), str(MINI_WEIGHTS / "vision")
    if spec.name == "smol" and spec.weights == "pretrained":
        from harness.backbones import smol_weights

        try:
            llm, vision = smol_weights.ensure(cache / "smol")
        except smol_weights.BackboneUnavailable as error:
            raise BackboneError(str(error)) from error
        return str(llm), str(vision)
    return None


def load_llm(source: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A Llama-like decoder and its tokenizer from a folder or a hub id.

    Raises:
        BackboneError: see `harness.backbones.load`.
    """
    config = _config(source)
    if config.model_type not in LLM_TYPES:
        raise BackboneError(f"{source}: model type {config.model_type!r} is not one of {', '.join(LLM_TYPES)}")
    with _readable(source, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(source)
    return _weights(AutoModelForCausalLM, source, dtype), tokenizer


def load_vision(source: str, dtype: torch.dtype) -> tuple[PreTrainedModel, Normalisation]:
    """A CLIP, SigLIP or DINOv2 encoder and the image constants it was trained with.

    Raises:
        BackboneError: see `harness.backbones.load`.
    """
    config = _config(source)
    family = _family(config, source)
    return _weights(family.encoder, source, dtype), _normalisation(source, family.images)


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
        vision_config = DINOV2_SMALL if spec.name == "smol" else VIT_L14
        family = _family(vision_config, spec.name)
    else:
        llm_config, vision_config = _config(sources[0]), _config(sources[1])
        family = _family(vision_config, sources[1])
        vision_config = getattr(vision_config, "vision_config", vision_config)
    with torch.random.fork_rng(devices=[]), torch.device(device):
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


def _folder(source: str) -> Path:
    """Where the files of a source lie: itself, or the hub's local snapshot."""
    path = Path(source).expanduser()
    return path if path.is_dir() else Path(snapshot_download(source, local_files_only=True))


def _config(source: str) -> PretrainedConfig:
    folder = Path(source).expanduser()
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise BackboneError(f"{folder}: no config.json; point at a Hugging Face model folder")
    if not folder.is_dir() and (source.startswith((".", "/", "~")) or source.count("/") > 1):
        raise BackboneError(f"{folder}: no such folder; give a Hugging Face model folder or a hub id")
    with _readable(source, "config"):
        return AutoConfig.from_pretrained(source)  # type: ignore[no-any-return]


@contextlib.contextmanager
def _readable(source: str, part: str) -> Iterator[None]:
    """Turn what Hugging Face raises for an unusable folder or id into one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise BackboneError(
            f"{source}: cannot read its {part} ({first}); give a complete local folder, or download it first"
        ) from error


def _weights(family: Any, source: str, dtype: torch.dtype) -> PreTrainedModel:
    with _readable(source, "safetensors weights"):
        model, info = family.from_pretrained(source, dtype=dtype, use_safetensors=True, output_loading_info=True)
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise BackboneError(f"{source}: weights lack {missing[0]!r} (and {len(missing) - 1} more)")
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise BackboneError(f"{source}: {name!r} holds NaN or infinity; download the weights again")
    return model  # type: ignore[no-any-return]


def _normalisation(source: str, default: Normalisation) -> Normalisation:
    """The image constants of `preprocessor_config.json`, or the family's."""
    path = Path(source) / "preprocessor_config.json"
    if not path.is_file():
        return default
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        mean, std = found.get("image_mean", default.mean), found.get("image_std", default.std)
        return Normalisation(tuple(map(float, mean)), tuple(map(float, std)))  # type: ignore[arg-type]
    except (ValueError, TypeError, AttributeError) as error:
        raise BackboneError(f"{path}: not a preprocessor configuration ({error})") from error
