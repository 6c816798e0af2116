"""Backbones: frozen vision encoder + language model pairs that implement `methods.VLModel`.

Only this package imports transformers, and only when a backbone is loaded.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from harness.backbones.decoder import DecoderModel

_RANDOM_SHAPES = ("llama-7b", "llama-13b")
Precision = Literal["fp32", "bf16", "fp16"]


class BackboneError(ValueError):
    """A backbone that cannot be loaded; the message names the folder or file and the fix in one line."""


@dataclass(frozen=True)
class BackboneSpec:
    """Which backbone to load and how.

    Attributes:
        name: one of `names()`, or any label when both paths are given.
        llm, vision: Hugging Face ids or local folders that replace the named backbone's own.
        weights: `random` builds the shapes with seeded random weights, for efficiency studies only.
    """

    name: str
    llm: str | None = None
    vision: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"


def names() -> list[str]:
    """Every backbone that `--backbone` takes."""
    return sorted(("mini", "smol", *_RANDOM_SHAPES))


def check(spec: BackboneSpec) -> None:
    """Refuse what can be refused without loading anything.

    Raises:
        BackboneError: unknown name, one path without the other, or a shape-only backbone without weights.
    """
    if (spec.llm is None) != (spec.vision is None):
        given, lacking = ("--llm", "--vision") if spec.llm else ("--vision", "--llm")
        raise BackboneError(f"{given} needs {lacking} as well: give both paths or neither")
    if spec.llm is not None:
        return
    if spec.name not in names():
        near = difflib.get_close_matches(spec.name, names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names())}, or --llm PATH --vision PATH"
        raise BackboneError(f"unknown backbone {spec.name!r}; {hint}")
    if spec.name in _RANDOM_SHAPES and spec.weights == "pretrained":
        raise BackboneError(f"{spec.name} ships no weights: give --llm PATH --vision PATH, or --weights random")


def load(
    spec: BackboneSpec, *, device: str = "cpu", precision: Precision = "fp32", cache: Path | None = None
) -> DecoderModel:
    """Load a backbone, frozen and in evaluation mode.

    Args:
        spec: what to load.
        device: `cpu`, `cuda:N`, or `meta` (shapes only, nothing is allocated).
        precision: the dtype the frozen weights are kept in.
        cache: where converted weights are kept (`smol`); the user's cache folder by default.

    Raises:
        BackboneError: see `check`; or a folder without config, tokenizer or weights, a model that is not a Llama-like
            decoder or a CLIP/DINOv2/SigLIP tower, NaN in weights, weights that cannot be fetched.
    """
    check(spec)
    from harness.backbones import clip_llama

    return clip_llama.load(spec, device=device, precision=precision, cache=cache or cache_folder())


def cache_folder() -> Path:
    """VLTUNE_CACHE, else `vltune` in the user's cache folder."""
    import os

    own = os.environ.get("VLTUNE_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vltune"
