"""A training in the middle, on disk: a folder of `tensors.safetensors` and `state.json`, whole or not at all.

The tensors are the trained parameters (`weights.NAME`), the optimiser's moments (`optimizer.NUMBER.KEY`) and torch's
generators (`random.NAME`); the rest is JSON, with the hash of the tensors and its own. Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.resume.randomness import Randomness

SCHEMA: Final = 2
TENSORS, DESCRIPTION = "tensors.safetensors", "state.json"

# All that a description of another program may lead to; RecursionError is a RuntimeError.
_UNUSABLE = (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError)


class StateError(ValueError):
    """A folder that holds no whole training state; says what is wrong in one line."""


@dataclass(frozen=True)
class TrainingState:
    """Everything that the next step depends on, and what the steps before left behind.

    Attributes:
        step: optimiser steps that are done.
        weights: the trained parameters by name.
        optimizer: the optimiser's own tensors, by number of the parameter and key.
        scaler: of the losses in fp16; empty elsewhere.
        random: as it was before the batch of the next step was made.
        losses, step_ms, samples, wall_s: as in `harness.train.TrainResult`.
        parts, cut_at: into how many a batch is cut, and where memory ran out with how many.
        resumed: the steps at which it went on from a state before this one.
        ended: names the last weights, whose answers are kept under that name; None while there are steps to come.
    """

    step: int
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    scaler: dict[str, Any]
    random: Randomness
    losses: list[float]
    step_ms: list[float]
    samples: int
    wall_s: float
    parts: int
    cut_at: list[dict[str, int]]
    resumed: list[int]
    ended: str | None


def write(folder: Path, state: TrainingState, belongs: Mapping[str, Any]) -> None:
    """Write a new folder; it takes its name once all bytes are on the disk.

    Args:
        folder: must not exist.
        belongs: what the state is good for, which `read` compares.

    Raises:
        OSError, SafetensorError: the disk is full, or nothing may be written there.
    """
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir(parents=True)
    try:
        save_file(_tensors(state), temporary / TENSORS)
        plain = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
        for name in ("weights", "optimizer", "random"):
            del plain[name]
        described = {
            "schema": SCHEMA,
            "belongs": dict(belongs),
            "sha256": _sha256(temporary / TENSORS),
            "random": state.random.numbers,
            **plain,
        }
        text = json.dumps({**described, "seal": _seal(described)}, allow_nan=False)
        (temporary / DESCRIPTION).write_text(text, encoding="utf-8")
        for name in (TENSORS, DESCRIPTION):
            _to_disk(temporary / name)
        _to_disk(temporary)
        temporary.rename(folder)
        _to_disk(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read(folder: Path, belongs: Mapping[str, Any]) -> TrainingState:
    """What `write` wrote.

    Raises:
        StateError: it is cut, damaged or edited, or belongs to something else.
    """
    try:
        found = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if found["schema"] != SCHEMA:
            raise StateError(f"{folder}: schema {found['schema']!r}, this vltune reads {SCHEMA}")
        if found.pop("seal") != _seal(found):
            raise StateError(f"{folder}: {DESCRIPTION} was edited or damaged")
        if differing := [name for name, value in belongs.items() if found["belongs"].get(name) != value]:
            raise StateError(f"{folder}: made with another {' and '.join(differing)}")
        if _sha256(folder / TENSORS) != found["sha256"]:
            raise StateError(f"{folder}: {TENSORS} is cut or damaged")
        tensors = load_file(folder / TENSORS)
        state = TrainingState(
            step=int(found["step"]),
            weights=_named("weights.", tensors),
            optimizer=_named("optimizer.", tensors),
            scaler=dict(found["scaler"]),
            random=Randomness(found["random"], _named("random.", tensors)),
            losses=[float(loss) for loss in found["losses"]],
            step_ms=[float(ms) for ms in found["step_ms"]],
            samples=int(found["samples"]),
            wall_s=float(found["wall_s"]),
            parts=int(found["parts"]),
            cut_at=[{str(name): int(count) for name, count in cut.items()} for cut in found["cut_at"]],
            resumed=[int(step) for step in found["resumed"]],
            ended=None if found["ended"] is None else str(found["ended"]),
        )
        numbers = [*state.losses, *state.step_ms, state.wall_s]
        if not all(map(math.isfinite, numbers)) or min(state.step, state.samples, state.parts) < 0:
            raise StateError(f"{folder}: {DESCRIPTION} holds numbers that no training gives")
        return state
    except StateError:
        raise
    except _UNUSABLE as error:
        raise StateError(f"{folder}: {type(error).__name__}: {error}") from None


def _tensors(state: TrainingState) -> dict[str, Tensor]:
    groups = {"weights.": state.weights, "optimizer.": state.optimizer, "random.": state.random.tensors}
    return {
        prefix + name: tensor.detach().cpu().contiguous()
        for prefix, tensors in groups.items()
        for name, tensor in tensors.items()
    }


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(described: Mapping[str, Any]) -> str:
    """The SHA-256 of a description without its seal; of JSON numbers Python reads what it wrote."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
