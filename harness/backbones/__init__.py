"""Backbones: frozen vision encoder + language model pairs, or one encoder of both, that implement `methods.VLModel`.

Only this package imports transformers, and only when a backbone is loaded.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from harness.backbones.backbone import Backbone

_RANDOM_SHAPES = ("llama-7b", "llama-13b")
_ENCODERS = ("beit3-base", "beit3-large")
Precision = Literal["fp32", "bf16", "fp16"]


class BackboneError(ValueError):
    """A backbone that cannot be loaded; the message names the folder or file and the fix in one line."""


@dataclass(frozen=True)
class BackboneSpec:
    """Which backbone to load and how.

    Attributes:
        name: one of `names()`, or any label when both paths are given.
        llm, vision: Hugging Face ids or local folders that replace the named backbone's own.
        encoder, tokenizer: weight file and tokenizer file (`beit3.spm`) of a BEiT-3.
        weights: `random` builds the shapes with seeded random weights, for efficiency studies only.
        image_size: pixels per side that a BEiT-3 reads; its own by default, which other weights are resized to.
        text_tokens: every text is made this long, repeated or cut, to measure what length costs; random weights only.
        layers: of the language model and of the vision tower, instead of as many as there are; random weights only.
    """

    name: str
    llm: str | None = None
    vision: str | None = None
    encoder: str | None = None
    tokenizer: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    text_tokens: int | None = None
    image_size: int | None = None
    layers: tuple[int, int] | None = None


def names() -> list[str]:
    """Every backbone that `--backbone` takes."""
    return sorted(("mini", "smol", *_RANDOM_SHAPES, *_ENCODERS))


def check(spec: BackboneSpec, *, shapes: bool = False) -> None:
    """Refuse what can be refused without loading anything.

    Args:
        spec: what is to be loaded.
        shapes: for its sizes alone, so that no text is to be read.

    Raises:
        BackboneError: unknown name, one path without the other, paths of another kind of backbone, a shape-only
            backbone without weights, or with both random weights and a file of weights.
    """
    if spec.text_tokens is not None and spec.weights != "random":
        raise BackboneError(
            "--text-tokens makes other texts of the data's own, so scores mean nothing: add --weights random"
        )
    if spec.layers is not None and (spec.weights != "random" or (spec.name in _ENCODERS and spec.llm is None)):
        raise BackboneError(f"{spec.name}: layers can be chosen for a decoder with random weights only")
    for flag, value in (
        ("--encoder", spec.encoder),
        ("--tokenizer", spec.tokenizer),
        ("--image-size", spec.image_size),
    ):
        if value is not None and (spec.name not in _ENCODERS or spec.llm is not None):
            raise BackboneError(f"{flag} is for {' and '.join(_ENCODERS)}; others take --llm PATH --vision PATH")
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
    if spec.encoder is not None and spec.weights == "random":
        raise BackboneError("--encoder names weights, and --weights random takes none: drop one of the two")
    if spec.encoder is not None and not Path(expanded(spec.encoder)).is_file():
        raise BackboneError(
            f"--encoder {spec.encoder}: no such file; give an official BEiT-3 .pth or a .safetensors file"
        )
    if spec.name in _ENCODERS and spec.weights == "pretrained" and not (spec.encoder and (spec.tokenizer or shapes)):
        raise BackboneError(
            f"{spec.name} ships no weights: give --encoder FILE.pth --tokenizer beit3.spm, or --weights random"
        )


def load(
    spec: BackboneSpec, *, device: str = "cpu", precision: Precision = "fp32", cache: Path | None = None
) -> Backbone:
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
    check(spec, shapes=device == "meta")
    from harness.backbones import clip_llama

    if spec.name in _ENCODERS and spec.llm is None:
        from harness.backbones.beit3 import load as beit3

        return beit3.load(
            spec.name,
            weights_path=Path(expanded(spec.encoder)) if spec.encoder else None,
            tokenizer_path=Path(expanded(spec.tokenizer)) if spec.tokenizer else None,
            device=device,
            dtype=clip_llama.DTYPES[precision],
            text_tokens=spec.text_tokens,
            image_size=spec.image_size,
        )

    return clip_llama.load(spec, device=device, precision=precision, cache=cache or cache_folder())


def expanded(source: str) -> str:
    """A path that begins with ~, which the shell leaves alone in `--llm=~/x`, as a whole one; all else as it is.

    Raises:
        BackboneError: nobody has such a home folder.
    """
    if not source.startswith("~"):
        return source
    try:
        return str(Path(source).expanduser())
    except RuntimeError:
        raise BackboneError(f"{source}: nobody has such a home folder; give the whole path") from None


FEATURES = "features"
"""Below the cache folder: what frozen towers made of pictures."""


def cache_folder() -> Path:
    """VLTUNE_CACHE, else `vltune` in the user's cache folder."""
    import os

    own = os.environ.get("VLTUNE_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vltune"
