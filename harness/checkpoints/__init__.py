"""Checkpoints: a folder format of our own, and the formats of the methods' authors, read into it and written from it.

| format | file or folder | stands for |
|---|---|---|
| `ademvl`, `memvp` | `checkpoint-19.pth` of the authors' training | the method of that name |
| `beit3` | a `.pth` of MultiWay-Adapter on BEiT-3 | method `mwa` |
| `llama` | a folder of `consolidated.*.pth` and `params.json` | a language model, as a Hugging Face folder |
| `llava` | `mm_projector.bin` | method `llava` |
| `peft` | a folder of `adapter_config.json` and `adapter_model.safetensors` | method `lora` |

Each format's module says what it reads and writes. No file is unpickled freely: safetensors, or torch files with
`weights_only=True`. Nothing here imports torch when the module loads.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

from harness.settings import suggest

if TYPE_CHECKING:
    from torch import Tensor

    from harness.checkpoints.own import Saved
    from methods import Method, VLModel


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or written; one line naming the file, the key and the fix."""


@dataclass(frozen=True)
class Foreign:
    """What a checkpoint of another format holds, under our names.

    Attributes:
        state: the method's tensors, and those of a task's head after `head.`.
        fields: what the checkpoint says about the method's fields.
        complete: makes the tensors that the format knows but this checkpoint lacks; None where it must have all.
        note: what whoever uses it should know.
    """

    state: Mapping[str, Tensor]
    fields: Mapping[str, Any] = field(default_factory=dict)
    complete: Callable[[Method, VLModel], Mapping[str, Tensor]] | None = None
    note: str = ""


class MethodFormat(Protocol):
    """What the module of a method's format offers."""

    def read(self, source: Path) -> Foreign:
        """Raises CheckpointError for a file that cannot be used."""

    def write(self, saved: Saved, out: Path) -> None:
        """Write a new file or folder, whole or not at all; raises CheckpointError."""


LLAMA = "llama"
_METHODS = {"ademvl": "ademvl", "beit3": "mwa", "llava": "llava", "memvp": "memvp", "peft": "lora"}
_MODULES = {"ademvl": "authors", "memvp": "authors", "beit3": "beit3", "llava": "llava", "peft": "peft_folder"}


def names() -> list[str]:
    """Every format that `--format` takes."""
    return sorted((*_METHODS, LLAMA))


def check(name: str) -> None:
    """Refuse an unknown format.

    Raises:
        CheckpointError: with the nearest name.
    """
    if name not in names():
        raise CheckpointError(f"unknown format {name!r}; {suggest(name, names())}")


def method_of(name: str) -> str:
    """The method whose parameters a format holds; any format but `llama`."""
    return _METHODS[name]


def module_of(name: str) -> MethodFormat:
    """The module that reads and writes a method's format."""
    module: ModuleType = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    return cast(MethodFormat, module)
