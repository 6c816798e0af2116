"""Names out of data: those that no file can have, and those that lead elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.io.files import is_bare, is_file


def test_a_file_is_one(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert is_file(tmp_path / "a")
    assert not is_file(tmp_path)
    assert not is_file(tmp_path / "b")
    assert not is_file(tmp_path / ("x" * 300))
    assert not is_file(tmp_path / "a\0b")


@pytest.mark.parametrize("name", ["image.png", "12", "a b", "é", ".hidden", "x" * 255])
def test_bare_names(name: str) -> None:
    assert is_bare(name)


@pytest.mark.parametrize("name", ["", ".", "..", "/", "/x", "../x", "a/b", "a/", "a\0b", "x" * 256, "é" * 128])
def test_other_names(name: str) -> None:
    assert not is_bare(name)
