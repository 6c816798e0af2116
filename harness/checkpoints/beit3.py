"""Format `beit3`: a `.pth` of MultiWay-Adapter's training on BEiT-3, for method `mwa`.

A torch file of `{"model": tensors, ...}` with the whole model. Only what was trained is taken:

    beit3.encoder.layers.<n>.{adaptmlp_text,adaptmlp_vision,enhancemlp}.*    layers.<n>.* of the method
    vision_head.weight, language_head.weight, logit_scale                    head.* of the retrieval task

The frozen encoder is left where it is; a backbone reads it from the same file (`--encoder`). Written are the taken
tensors under their official names in `{"model": tensors}`.

Source: authors' utils.py `save_model` (MultiWay-Adapter commit 8999b5a).
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from harness.backbones.beit3.checkpoint import HEAD as HEADS
from harness.checkpoints import CheckpointError, Foreign, reading, writing
from harness.checkpoints.own import HEAD, Saved

WHAT = "a .pth of MultiWay-Adapter on BEiT-3"
PREFIX = "beit3.encoder."
TRAINED = re.compile(r"layers\.\d+\.(adaptmlp_text|adaptmlp_vision|enhancemlp)\.")


def read(source: Path) -> Foreign:
    """Adapters, enhancers and a retrieval head of a checkpoint.

    Raises:
        CheckpointError: see `reading.named_tensors`; or no adapters and no enhancers in it.
    """
    named = reading.named_tensors(source, what=WHAT)
    short = {name.removeprefix(PREFIX): tensor for name, tensor in named.items() if name.startswith(PREFIX)}
    trained = {name: tensor for name, tensor in short.items() if TRAINED.match(name)}
    if not trained:
        raise CheckpointError(f"{source}: no '{PREFIX}layers.0.adaptmlp_text...' or the like in it; give {WHAT}")
    return Foreign(trained | {HEAD + name: named[name] for name in HEADS if name in named})


def write(saved: Saved, out: Path) -> None:
    """The trained tensors under their official names.

    Raises:
        CheckpointError: the file exists or cannot be written; a tensor that the format has no name for.
    """
    with writing.new_file(out) as beside:
        torch.save({"model": {_theirs(name, out): tensor for name, tensor in saved.state.items()}}, beside)


def _theirs(name: str, out: Path) -> str:
    if TRAINED.match(name):
        return PREFIX + name
    if name.removeprefix(HEAD) in HEADS and name.startswith(HEAD):
        return name.removeprefix(HEAD)
    raise CheckpointError(f"--out {out}: BEiT-3's format has no place for {name!r}; keep our own format")
