"""The command under test, and a random state of any method on a tiny backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import methods
from harness import cli

Refused = Callable[..., str]
Imported = Callable[..., Path]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs `checkpoint ...` with a mistake; gives its one line."""

    def run(*argv: object) -> str:
        assert cli.main(["checkpoint", *map(str, argv)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("vltune: error: ")
        assert err.count("\n") == 1
        return err.removeprefix("vltune: error: ").rstrip("\n")

    return run


@pytest.fixture
def pair(tiny_folders: tuple[Path, Path]) -> list[str]:
    """The flags of the tiny CLIP + Llama pair."""
    return ["--llm", str(tiny_folders[0]), "--vision", str(tiny_folders[1])]


@pytest.fixture
def converted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Imported:
    """Runs `checkpoint import` or `export`, which must succeed; gives what it printed: the new place."""

    def run(way: str, format: str, source: Path, *flags: str, name: str = "out") -> Path:
        out = tmp_path / name
        assert cli.main(["checkpoint", way, "--format", format, str(source), "--out", str(out), *flags]) == 0
        assert capsys.readouterr().out == f"{out}\n"
        return out

    return run


def random_state(method: methods.Method, model: methods.VLModel) -> dict[str, Tensor]:
    """Random tensors under the names and shapes of a method on a model."""
    attachment = method.attach(model, seed=0)
    generator = torch.Generator().manual_seed(1)
    state = {name: torch.randn(t.shape, generator=generator) * 0.1 for name, t in attachment.state_dict().items()}
    attachment.detach()
    return state


def same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """Same names, dtypes and numbers, bit for bit."""
    return found.keys() == expected.keys() and all(
        found[name].dtype == expected[name].dtype and torch.equal(found[name], expected[name]) for name in expected
    )
