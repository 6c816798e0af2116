"""Hugging Face folders and hub ids: what is read of them, and what is refused in one line."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from harness.backbones import BackboneError
from harness.backbones.decoder import Normalisation

NUMBERS_PER_BYTE = 2  # at most, in weights of four bits
Build = Callable[[PretrainedConfig], PreTrainedModel]


def folder(source: str) -> Path:
    """Where the files of a source lie: itself, or the hub's local snapshot."""
    path = Path(source)
    return path if path.is_dir() else Path(snapshot_download(source, local_files_only=True))


def config(source: str) -> PretrainedConfig:
    """The configuration of a source.

    Raises:
        BackboneError: no such folder, or no configuration that transformers knows.
    """
    path = Path(source)
    if path.is_dir() and not (path / "config.json").is_file():
        raise BackboneError(f"{path}: no config.json; point at a Hugging Face model folder")
    if not path.is_dir() and (source.startswith((".", "/", "~")) or source.count("/") > 1):
        raise BackboneError(f"{path}: no such folder; give a Hugging Face model folder or a hub id")
    with readable(source, "config"):
        # Without the last argument it may ask at the terminal whether to run code that came along.
        return AutoConfig.from_pretrained(source, trust_remote_code=False)  # type: ignore[no-any-return]


@contextlib.contextmanager
def readable(source: str, part: str) -> Iterator[None]:
    """Turn what Hugging Face raises for an unusable folder or id into one line."""
    try:
        yield
    except BackboneError:
        raise
    except Exception as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise BackboneError(
            f"{source}: cannot read its {part} ({first}); give a complete local folder, or download it first"
        ) from error


def check_claims(source: str, config: PretrainedConfig, build: Build) -> None:
    """Refuse a folder whose configuration claims more than its files hold, before anything of that size is made.

    Raises:
        BackboneError: names both; or files that are no safetensors, or a configuration of no model.
    """
    path = Path(source)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else []  # the hub's own cache is the hub's to check
    if not files:
        return
    with readable(source, "config and safetensors weights"):
        held, tensors = sum(file.stat().st_size for file in files), 0
        for file in files:
            with safe_open(file, framework="pt") as opened:
                tensors += len(opened.keys())
        if config.num_hidden_layers > tensors:
            raise BackboneError(
                f"{path}: config.json claims {config.num_hidden_layers} layers, weights are {tensors}; copy it again"
            )
        with torch.device("meta"):
            claimed = sum(parameter.numel() for parameter in build(config).parameters())
        if claimed > NUMBERS_PER_BYTE * held:
            raise BackboneError(
                f"{path}: config.json claims {claimed:,} numbers, the weights have {held:,} bytes; copy it again"
            )


def weights(family: Any, source: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a source, in safetensors alone.

    Raises:
        BackboneError: they cannot be read, lack a tensor, or hold NaN or infinity; names the tensor.
    """
    with readable(source, "safetensors weights"):
        model, info = family.from_pretrained(source, dtype=dtype, use_safetensors=True, output_loading_info=True)
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise BackboneError(f"{source}: weights lack {missing[0]!r} (and {len(missing) - 1} more)")
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise BackboneError(f"{source}: {name!r} holds NaN or infinity; download the weights again")
    return model  # type: ignore[no-any-return]


def normalisation(source: str, default: Normalisation) -> Normalisation:
    """The image constants of `preprocessor_config.json`, or the family's.

    Raises:
        BackboneError: they are not three finite numbers, above 0 for the deviations.
    """
    path = Path(source) / "preprocessor_config.json"
    if not path.is_file():
        return default
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        mean, std = found.get("image_mean", default.mean), found.get("image_std", default.std)
        return Normalisation(_channels(mean), _channels(std, above=0.0))
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BackboneError(f"{path}: not a preprocessor configuration ({error}); copy it again") from error


def _channels(values: Any, *, above: float = -math.inf) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    if not all(math.isfinite(value) and value > above for value in (red, green, blue)):
        raise ValueError(f"three finite numbers are expected, for a deviation above 0, got {red}, {green}, {blue}")
    return red, green, blue
