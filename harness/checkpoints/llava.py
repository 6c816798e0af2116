"""Format `llava`: `mm_projector.bin` of LLaVA's first stage.

A torch file of four tensors, with or without `model.mm_projector.` (or `mm_projector.`) before their names:

    model.mm_projector.0.weight [hidden, C], .0.bias   adapter_projector.fc1
    model.mm_projector.2.weight [D, hidden], .2.bias   adapter_projector.fc2

The first LLaVA's single linear layer (`mm_projector.weight`, `.bias`) is recognised and refused: method `llava` has two
layers, and no tensors of two layers compute the same.

Deviation: LLaVA's projector was trained on CLIP's last hidden state but one as it is, and reads it here behind the
tower's `post_layernorm`, as every method does. The note of what was imported says so: it is to be trained further.

Source: LLaVA's `LLaVATrainer._save_checkpoint` and `build_vision_projector` (`mlp2x_gelu`).
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from harness.checkpoints import CheckpointError, Foreign, reading, writing
from harness.checkpoints.own import HEAD, Saved

WHAT = "LLaVA's mm_projector.bin"
PREFIX = "model.mm_projector."
LAYERS = {"0": "adapter_projector.fc1", "2": "adapter_projector.fc2"}
NOTE = "trained on features before post_layernorm, which are read behind it here: train it further before use"
THEIRS = {f"{ours}.{part}": f"{layer}.{part}" for layer, ours in LAYERS.items() for part in ("weight", "bias")}
OURS = {theirs: ours for ours, theirs in THEIRS.items()}


def read(source: Path) -> Foreign:
    """The projector.

    Raises:
        CheckpointError: see `reading.named_tensors`; a single linear layer; a missing or unknown key.
    """
    named = reading.named_tensors(source, what=WHAT)
    short = {re.sub(r"^(model\.)?mm_projector\.", "", name): tensor for name, tensor in named.items()}
    if set(short) in ({"weight"}, {"weight", "bias"}):
        raise CheckpointError(f"{source}: a single linear layer; method llava has two: give an mlp2x_gelu projector")
    for found, expected, said in ((short, OURS, "lacks"), (OURS, short, "has unknown")):
        if odd := sorted(set(expected) - set(found)):
            raise CheckpointError(f"{source}: {said} {odd[0]!r}; give {WHAT}, of an mlp2x_gelu projector")
    return Foreign({OURS[name]: tensor for name, tensor in short.items()}, note=NOTE)


def write(saved: Saved, out: Path) -> None:
    """`mm_projector.bin`; what stage 2 trained of the language model has no place in it and is refused.

    Raises:
        CheckpointError: the file exists or cannot be written; a tensor that is none of the projector's.
    """
    if odd := sorted(set(saved.state) - set(THEIRS)):
        way_out = f"{writing.WITHOUT_HEAD} or " * all(name.startswith(HEAD) for name in odd)
        raise CheckpointError(
            f"--out {out}: mm_projector.bin has no place for {odd[0]!r}; {way_out}keep our own format"
        )
    with writing.new_file(out) as beside:
        torch.save({PREFIX + THEIRS[name]: tensor for name, tensor in saved.state.items()}, beside)
