"""Formats `ademvl` and `memvp`: the epoch files (`checkpoint-19.pth`) of the authors' training.

A torch file of `{"model": tensors, "optimizer": ..., "epoch": ..., "scaler": ..., "args": Namespace}` or of the bare
tensors. The model's are those with `adapter` in their name, with `module.` before it where training was distributed;
all else plays no part. Their names are ours but for the adapters of the vision tower:

    backbone.visual.transformer.resblocks.<block>.adapter_mlp.fc1.weight   theirs
    adapter_vision.<block>.fc1.weight                                      ours

Written are `{"model": tensors}`, which the authors' evaluation scripts read.

Source: authors' util/misc.py `save_model` (ADEM-VL commit cec09b8, MemVP 5eef19f).
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from harness.checkpoints import CheckpointError, Foreign, reading, writing
from harness.checkpoints.own import HEAD, Saved

WHAT = "an epoch file of the authors, such as checkpoint-19.pth"


def read(source: Path) -> Foreign:
    """The adapters of an epoch file.

    Raises:
        CheckpointError: see `reading.named_tensors`; or no adapters in it.
    """
    named = reading.named_tensors(source, what=WHAT)
    state = {ours(name): tensor for name, tensor in named.items() if "adapter" in name}
    if not state:
        held = f"such as {next(iter(named))!r}" if named else "nothing"
        raise CheckpointError(f"{source}: no name has 'adapter' in it (it holds {held}); give {WHAT}")
    return Foreign(state)


def write(saved: Saved, out: Path) -> None:
    """An epoch file; a task's own head, which the authors do not have, is refused.

    Raises:
        CheckpointError: the file exists or cannot be written; a head.
    """
    if head := [name for name in saved.state if name.startswith(HEAD)]:
        raise CheckpointError(
            f"--out {out}: the authors' format has no place for {head[0]!r}; {writing.WITHOUT_HEAD} or keep our own "
            "format"
        )
    with writing.new_file(out) as beside:
        torch.save({"model": {theirs(name): tensor for name, tensor in saved.state.items()}}, beside)


def ours(name: str) -> str:
    """An authors' parameter name as ours."""
    return re.sub(r"^backbone\.visual\.transformer\.resblocks\.(\d+)\.adapter_mlp\.", r"adapter_vision.\1.", name)


def theirs(name: str) -> str:
    """The way back of `ours`."""
    return re.sub(r"^adapter_vision\.(\d+)\.", r"backbone.visual.transformer.resblocks.\1.adapter_mlp.", name)
