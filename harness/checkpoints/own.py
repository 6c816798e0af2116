"""Our own format: a folder of `adapter.safetensors` and `vltune.json`.

`adapter.safetensors` holds the tensors of `methods.Attachment.state_dict()` under their names, and those of a task's
own head, if there are any, after `head.`. `vltune.json` says what they are:

    {"schema": 1, "method": "ademvl", "fields": {"alpha": 0.1, ...}, "backbone": "llama-7b",
     "note": "how it came about", "sha256": "of adapter.safetensors"}
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor

import methods
from harness.checkpoints import CheckpointError, reading, writing
from methods import Method

SCHEMA: Final = 1
TENSORS, DESCRIPTION = "adapter.safetensors", "vltune.json"
HEAD = "head."
WHAT = f"a folder of {TENSORS} and {DESCRIPTION}"


class _Description(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    schema_: Literal[1]
    method: str
    fields: dict[str, Any]
    backbone: str
    note: str
    sha256: str


@dataclass(frozen=True)
class Saved:
    """A checkpoint: a method with its fields, its tensors, the backbone they were trained on, how it came about.

    `sha256` is that of the file of the tensors; empty for what comes from nowhere.
    """

    method_name: str
    method: Method
    state: Mapping[str, Tensor]
    backbone: str
    note: str
    sha256: str = ""


def save(
    folder: Path, *, method_name: str, method: Method, state: Mapping[str, Tensor], backbone: str, note: str
) -> None:
    """Write a new folder, whole or not at all.

    Raises:
        CheckpointError: the folder holds something, or cannot be written.
    """
    with writing.new_folder(folder) as beside:
        save_file(_apart(state), beside / TENSORS, metadata={"format": "pt"})
        description = {
            "schema": SCHEMA,
            "method": method_name,
            "fields": {field.name: getattr(method, field.name) for field in dataclasses.fields(method)},
            "backbone": backbone,
            "note": note,
            "sha256": reading.sha256(beside / TENSORS),
        }
        text = json.dumps(description, indent=2, ensure_ascii=False, allow_nan=False)
        (beside / DESCRIPTION).write_text(f"{text}\n", encoding="utf-8")


def load(folder: Path) -> Saved:
    """Read a folder of ours; whether it fits a method on a backbone says `fit`.

    Raises:
        CheckpointError: no such folder, a file that is missing, cut off or changed since, another schema, an unknown
            method, fields it does not take.
    """
    reading.check_folder(folder, what=WHAT)
    path = folder / DESCRIPTION
    content = reading.json_file(path, what=WHAT)
    if content.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{path}: schema is {content.get('schema')!r}, this version reads {SCHEMA}; update vltune"
        )
    try:
        found = _Description.model_validate({"schema_": content.pop("schema"), **content})
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    method = _method(found, path)
    reading.check_file(folder / TENSORS, what=WHAT)
    if reading.sha256(folder / TENSORS) != found.sha256:
        raise CheckpointError(f"{folder / TENSORS}: not what {DESCRIPTION} describes (sha256); copy the folder again")
    state = reading.safetensors_file(folder / TENSORS, what=WHAT)
    return Saved(found.method, method, state, found.backbone, found.note, found.sha256)


def fit(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    where: str,
    head: Mapping[str, Tensor] | None = None,
) -> None:
    """Hold tensors against those that a method has on a backbone.

    Args:
        state: the tensors of a checkpoint.
        expected: `Attachment.state_dict()`, on any device.
        where: the checkpoint and the method, for the message.
        head: the same of the task's head. A checkpoint may hold none; without this one, that of the checkpoint plays
            no part.

    Raises:
        CheckpointError: a missing or unknown key, a shape that differs (with both shapes), NaN or infinity.
    """
    own = {name: tensor for name, tensor in state.items() if not name.startswith(HEAD)}
    _same_shapes(own, expected, where, "take the method, its fields (--set) and the backbone it was trained with")
    if head is not None and len(own) < len(state):
        prefixed = {HEAD + name: tensor for name, tensor in head.items()}
        found = {name: tensor for name, tensor in state.items() if name.startswith(HEAD)}
        _same_shapes(found, prefixed, where, "take the task, its options (--set) and the backbone it was trained with")
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"{where}: {name!r} holds {tensor.dtype} and not fractions; take another checkpoint")
        if not torch.isfinite(tensor.float()).all():
            raise CheckpointError(f"{where}: {name!r} holds NaN or infinity; take an earlier checkpoint")


def _same_shapes(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str, advice: str) -> None:
    if missing := sorted(set(expected) - set(found)):
        raise CheckpointError(f"{where}: lacks {_first(missing, expected)}; {advice}")
    if extra := sorted(set(found) - set(expected)):
        raise CheckpointError(f"{where}: has unknown {_first(extra, found)}; {advice}")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{where}: {name!r} has shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}; {advice}"
            )


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each with a memory of its own, as safetensors wants them."""
    seen, tensors = set[int](), dict[str, Tensor]()
    for name, tensor in state.items():
        here = tensor.detach().cpu().contiguous()
        place = here.untyped_storage().data_ptr()
        tensors[name] = here.clone() if place in seen else here
        seen.add(place)
    return tensors


def _method(found: _Description, path: Path) -> Method:
    try:
        hints = typing.get_type_hints(methods.load(found.method))
        fields = {
            name: _typed(hints.get(name, Any), _tuples(value), f"fields.{name}") for name, value in found.fields.items()
        }
        return methods.get(found.method, **fields)
    except (ValueError, TypeError) as error:  # of `blind` also the fields of another method
        raise CheckpointError(f"{path}: {error}; take the fields that the method has") from None


def _typed(hint: Any, value: Any, name: str) -> Any:
    """A value from JSON as its field's type: whole numbers stand for floats too."""
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{name} is {value!r}: {error.errors()[0]['msg']}") from None


def _first(names: list[str], tensors: Mapping[str, Tensor]) -> str:
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"{names[0]!r} of shape {tuple(tensors[names[0]].shape)}{more}"


def _tuples(value: Any) -> Any:
    """JSON knows lists only; fields are hashable."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
