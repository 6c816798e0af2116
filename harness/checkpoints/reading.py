"""Reading tensors and JSON from files that others wrote, without running any code in them."""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from harness.checkpoints import CheckpointError
from harness.nesting import TOO_DEEP, check_depth, refuse_constant

LARGEST = 10**15
"""No size or constant of a model's configuration is larger."""
CUT = "it is of another kind, cut off or damaged; copy it again"
DAMAGED = (
    *(RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError, AssertionError),
    *(ArithmeticError, struct.error, zipfile.BadZipFile, zlib.error),
)
"""What torch.load raises for damaged files, depending on where they are."""


def torch_file(path: Path, *, what: str) -> Any:
    """What `torch.save` wrote, on the CPU; a zip file is mapped into memory and not copied.

    Beside tensors and plain Python values only `argparse.Namespace` is allowed, which the authors save as `args`: it
    holds values and runs nothing.

    Raises:
        CheckpointError: no such file, a folder, a damaged file, or a pickle that needs other code.
    """
    check_file(path, what=what)
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            _check_members(path)
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about pickles of other protocols; whether they load shows
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (*DAMAGED, pickle.UnpicklingError) as error:
        needed = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if needed is None:
            raise CheckpointError(f"{path}: no readable torch file; {CUT}") from error
        raise CheckpointError(
            f"{path}: a pickle that needs code to be run ({needed.group(1)}), which is refused; save its tensors "
            "alone: torch.save({'model': state_dict}, path)"
        ) from error


def named_tensors(path: Path, *, what: str) -> dict[str, Tensor]:
    """The tensors of a torch file by name, without a data-parallel `module.` before them.

    They lie at its top, or under `model` (DeepSpeed: `module`), and then nothing beside that (optimizer, args, epoch)
    plays a part.

    Raises:
        CheckpointError: see `torch_file`; or no tensors by name.
    """
    loaded = torch_file(path, what=what)
    state = loaded.get("model", loaded.get("module", loaded)) if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: holds no tensors by name, neither at its top nor under 'model'; give {what}")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {name!r} is a {type(value).__name__}, not a tensor; give {what}")
        check_tensor(name, value, path)
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def check_tensor(name: str, tensor: Tensor, path: Path) -> None:
    """Refuse what is no array of numbers, or claims more of them than its file holds.

    Raises:
        CheckpointError: a sparse, quantised or nested tensor, one without numbers, or one that repeats them.
    """
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
        raise CheckpointError(f"{path}: {name!r} is no plain array of numbers; save it as one")
    if tensor.numel() * tensor.element_size() > path.stat().st_size:
        raise CheckpointError(f"{path}: {name!r} claims shape {tuple(tensor.shape)}, more than the file holds; {CUT}")


def _check_members(path: Path) -> None:
    """Torch packs nothing in its zip files, and takes the memory that a member claims to need."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.file_size > path.stat().st_size:
                raise ValueError(f"{member.filename!r} claims more bytes than the file has")


def safetensors_file(path: Path, *, what: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        CheckpointError: no such file, a folder, or a damaged file.
    """
    check_file(path, what=what)
    try:
        return load_file(path)
    except (SafetensorError, *DAMAGED) as error:
        raise CheckpointError(f"{path}: no readable safetensors file ({error}); {CUT}") from error


def json_file(path: Path, *, what: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: no such file, a folder, or no JSON object.
    """
    check_file(path, what=what)
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
        check_depth(content)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: no readable JSON ({error}); {CUT}") from error
    except RecursionError:
        raise CheckpointError(f"{path}: no readable JSON ({TOO_DEEP}); {CUT}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no JSON object; give {what}")
    return content


def number(values: Mapping[str, Any], name: str, *, where: Path, default: Any = None, whole: bool = False) -> Any:
    """`values[name]`, known to be a positive number of a usual size; `default` where there is none or null.

    Raises:
        CheckpointError: anything else.
    """
    value = values.get(name)
    if value is None:
        value = default
    wanted = (int,) if whole else (int, float)
    if type(value) not in wanted or not 0 < value <= LARGEST:
        kind = "a whole number of at least 1" if whole else "a number above 0 such as 1e-06"
        raise CheckpointError(f"{where}: {name} must be {kind}, got {value!r}")
    return value


def check_file(path: Path, *, what: str) -> None:
    """Refuse what is no file; `what` says which file is wanted."""
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; give {what}")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give {what}")


def check_folder(path: Path, *, what: str) -> None:
    """Refuse what is no folder; `what` says which folder is wanted."""
    if path.is_file():
        raise CheckpointError(f"{path}: is a file; give {what}")
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder; give {what}")


def sha256(path: Path) -> str:
    """Of a file's bytes; of a folder's files, by name and bytes."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    listed = [
        f"{sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in sorted(path.rglob("*")) if file.is_file()
    ]
    return hashlib.sha256("".join(listed).encode()).hexdigest()
