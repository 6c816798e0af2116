"""BEiT-3 weights from an official `.pth` or a `.safetensors` file, strictly, without running any code in them."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.backbones import BackboneError
from harness.backbones.beit3.multiway import FIRST_POSITION
from harness.checkpoints import CheckpointError, reading

logger = logging.getLogger(__name__)

PREFIX = "beit3."
VISION_POSITIONS, PATCHES = "encoder.embed_positions.A.weight", "vision_embed.proj.weight"
HEAD = ("vision_head.weight", "language_head.weight", "logit_scale")
ADAPTERS = re.compile(r"beit3\.encoder\.layers\.\d+\.(adaptmlp_text|adaptmlp_vision|enhancemlp)\.")
OTHER_HEADS = re.compile(r"(\w*head\w*|pooler|fc_norm|criterion|mlm_\w+|mim_\w+)(\.|$)")


@dataclass(frozen=True)
class Weights:
    """What a checkpoint holds for the backbone: the encoder by its own names, and a retrieval head or None."""

    encoder: dict[str, Tensor]
    head: dict[str, Tensor] | None


def read(path: Path, expected: Mapping[str, Tensor]) -> Weights:
    """The weights of a file, fitted to the names and shapes of `expected` (the encoder's state, on any device).

    Position embeddings of another image size are interpolated. Heads of pretraining and of other tasks, and adapters of
    MultiWay-Adapter, are left out. Each is logged in one line.

    Raises:
        BackboneError: no such file, not a checkpoint, a pickle that needs code, keys that are missing or unknown (all
            in one line), a shape that differs, a part of a retrieval head, NaN or infinity.
    """
    state = _tensors(path)
    ignored = [name for name in state if _ignored(name)]
    head = {name: state[name] for name in HEAD if name in state}
    own = {name: tensor for name, tensor in state.items() if name not in head and name not in ignored}
    _check_names(path, own, [PREFIX + name for name in expected])
    if head and len(head) < len(HEAD):
        raise BackboneError(
            f"{path}: holds {_listed(head)} but not {_listed(set(HEAD) - set(head))}; give all three or none"
        )
    if ignored:
        logger.warning("%s: ignored, as no part of the encoder: %s", path, _listed(ignored))
    encoder = {name: own[PREFIX + name] for name in expected}
    _check_numbers(path, {PREFIX + name: tensor for name, tensor in encoder.items()} | head)
    width = expected[VISION_POSITIONS].shape[1]
    table = encoder[VISION_POSITIONS]
    if table.shape[1:] == (width,):
        encoder[VISION_POSITIONS] = resize_positions(table, len(expected[VISION_POSITIONS]))
        if encoder[VISION_POSITIONS] is not table:
            patch = expected[PATCHES].shape[-1]
            old, new = (_side(len(rows)) * patch for rows in (table, encoder[VISION_POSITIONS]))
            logger.warning("%s: made for pictures of %d px, resized to %d px (see --image-size)", path, old, new)
    for name, tensor in encoder.items():
        _check_shape(path, PREFIX + name, tensor, expected[name].shape)
    for name, tensor in head.items():
        _check_shape(path, name, tensor, () if name == "logit_scale" else (width, width))
    return Weights(encoder, head or None)


def resize_positions(table: Tensor, rows: int) -> Tensor:
    """Bicubic interpolation of the patches' position embeddings to a table of `rows`; the rows before them stay.

    A table whose patches form no square is returned as it is. Source: BEiT-3's `load_model_and_may_interpolate`.
    """
    fixed = FIRST_POSITION + 1
    old, new = _side(len(table)), _side(rows)
    if len(table) == rows or old**2 != len(table) - fixed or new**2 != rows - fixed:
        return table
    grid = table[fixed:].float().unflatten(0, (old, old)).permute(2, 0, 1)[None]
    resized = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([table[:fixed], resized[0].flatten(1).T.to(table.dtype)])


def _side(rows: int) -> int:
    """Patches per side of a position table."""
    return math.isqrt(max(rows - FIRST_POSITION - 1, 0))


def _ignored(name: str) -> bool:
    return bool(name not in HEAD and (ADAPTERS.match(name) or OTHER_HEADS.match(name)))


def _check_names(path: Path, own: Iterable[str], expected: Iterable[str]) -> None:
    missing, extra = set(expected) - set(own), set(own) - set(expected)
    if missing or extra:
        said = [f"lacks {_listed(missing)}"] * bool(missing) + [f"has unknown {_listed(extra)}"] * bool(extra)
        raise BackboneError(f"{path}: {' and '.join(said)}; give a BEiT-3 checkpoint of the backbone's size")


def _tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name, without a data-parallel prefix; no code in the file is run."""
    what = "an official BEiT-3 .pth or a .safetensors file"
    try:
        if path.suffix == ".safetensors":
            return reading.safetensors_file(path, what=what)
        return reading.named_tensors(path, what=what)
    except CheckpointError as error:
        raise BackboneError(str(error)) from error


def _check_numbers(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise BackboneError(f"{path}: {name} holds {tensor.dtype} and not fractions; take the official weights")
        if not torch.isfinite(tensor.float()).all():
            raise BackboneError(f"{path}: {name} holds NaN or infinity; download the weights again")


def _check_shape(path: Path, name: str, tensor: Tensor, expected: Sequence[int]) -> None:
    if tensor.shape != tuple(expected):
        raise BackboneError(
            f"{path}: {name} has shape {tuple(tensor.shape)}, expected {tuple(expected)}; "
            "take the backbone of the checkpoint's size"
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
