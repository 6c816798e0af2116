"""Files and folders that appear whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from harness.checkpoints import CheckpointError, writing

Way = Callable[[Path], AbstractContextManager[Path]]


def test_a_folder_appears_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    with writing.new_folder(out) as beside:
        (beside / "x").write_text("1", encoding="utf-8")
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == ["x"]
    assert [path.name for path in out.parent.iterdir()] == ["folder"]


def test_files_can_be_read_by_whom_the_folder_can(tmp_path: Path) -> None:
    out = tmp_path / "folder"
    with writing.new_folder(out) as beside:
        private = beside / "x"
        private.write_text("1", encoding="utf-8")
        private.chmod(0o600)
    assert (out / "x").stat().st_mode & 0o777 == out.stat().st_mode & 0o666


def test_a_file_appears_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "new" / "x.pth"
    with writing.new_file(out) as beside:
        beside.write_text("1", encoding="utf-8")
        assert not out.exists()
    assert out.read_text(encoding="utf-8") == "1"
    assert [path.name for path in out.parent.iterdir()] == ["x.pth"]


@pytest.mark.parametrize("way", [writing.new_file, writing.new_folder])
@pytest.mark.parametrize("error", [KeyboardInterrupt, CheckpointError("wrong")])
def test_an_error_leaves_nothing(way: Way, error: type[BaseException] | BaseException, tmp_path: Path) -> None:
    def fill() -> None:
        with way(tmp_path / "x") as beside:
            (beside / "y" if beside.is_dir() else beside).write_text("half", encoding="utf-8")
            raise error

    with pytest.raises((KeyboardInterrupt, CheckpointError)):
        fill()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("way", [writing.new_file, writing.new_folder])
def test_what_torch_raises_on_a_full_disk_is_one_line(way: Way, tmp_path: Path) -> None:
    def fill() -> None:
        with way(tmp_path / "x"):
            raise RuntimeError("[enforce fail at inline_container.cc:603] . PytorchStreamWriter failed\nframe #0: c10")

    with pytest.raises(CheckpointError, match=r"/x: cannot be written \(.*Writer failed\); name another place$"):
        fill()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("way", [writing.new_file, writing.new_folder])
def test_places_that_cannot_be_written(way: Way, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"/file/x: cannot be written \(.*\); name another place$"):
        way(tmp_path / "file" / "x").__enter__()
    with pytest.raises(CheckpointError, match=r"^--out .*/file: "):
        way(tmp_path / "file").__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
