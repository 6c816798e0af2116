"""A folder to read from, deep enough that what climbs out of it stays within the test's own."""

from __future__ import annotations

import functools
import importlib.metadata
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def plug_ins_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of methods and tasks come from every installed package, which takes longer than all else."""
    monkeypatch.setattr(importlib.metadata, "entry_points", functools.cache(importlib.metadata.entry_points))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one; names relative to the current folder would show as well."""
    made = tmp_path / "outer" / "inner"
    made.mkdir(parents=True)
    (tmp_path / "current").mkdir()
    monkeypatch.chdir(tmp_path / "current")
    return made
