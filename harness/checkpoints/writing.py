"""Writing a file or a folder whole or not at all: beside its place first, then renamed. Nothing is overwritten."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from harness.checkpoints import CheckpointError

WITHOUT_HEAD = "leave the task's head out with --without-head"
"""What to do where a format has no place for one."""


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the name `path` at the end; it is gone if an error comes before that.

    Raises:
        CheckpointError: `path` exists and is no empty folder, or cannot be written.
    """
    check_new_folder(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with _writable(path):
            temporary.mkdir(parents=True)
            yield temporary
            _readable_like_the_folder(temporary)
            if path.is_dir():
                path.rmdir()  # empty, as checked; Windows does not rename over it
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """As `new_folder`, for one file: the path to write, in the folder of `path`, which is made.

    Raises:
        CheckpointError: `path` exists, or cannot be written.
    """
    check_new_file(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with _writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.rename(path)
    finally:
        with contextlib.suppress(OSError):  # what went wrong before says more
            temporary.unlink()


def _readable_like_the_folder(folder: Path) -> None:
    """Give files the mode that the user's umask gave the folder; safetensors keeps those it writes to their owner."""
    mode = folder.stat().st_mode & 0o666
    for file in folder.iterdir():
        file.chmod(mode)


def check_new_folder(path: Path) -> None:
    """Refuse a place that is taken."""
    with _writable(path):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise CheckpointError(f"--out {path}: is not empty; name a new folder")


def check_new_file(path: Path) -> None:
    """Refuse a place that is taken."""
    if path.exists():
        raise CheckpointError(f"--out {path}: exists already; name a new file")


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:  # the last of torch.save, where a disk is full
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"--out {path}: cannot be written ({reason}); name another place") from error
