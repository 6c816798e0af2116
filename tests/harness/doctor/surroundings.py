"""What the doctor looks at: this checkout, and programs of the test's own."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from harness.doctor import Finding

ROOT = Path(__file__).parents[3]
Look = Callable[[], dict[str, Finding]]


def checkout(extra: str = "") -> str:
    """How pip is told to install this checkout, wherever it lies."""
    return shlex.join(["-e", f"{ROOT}{extra}", "-c", str(ROOT / "constraints.txt")])


def program(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path
