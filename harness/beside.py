"""Files beside a record: as the run wrote them, or compressed since with gzip, which changes nothing in them."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import BinaryIO, cast

ENDING = ".gz"
UNREADABLE = (OSError, EOFError, zlib.error)
"""What reading may raise; the last two where a compressed file is damaged."""


def found(path: Path) -> Path:
    """The file itself; in its place the compressed one where only that is there."""
    packed = path.with_name(path.name + ENDING)
    return packed if _there(packed) and not _there(path) else path


def opened(path: Path) -> BinaryIO:
    """What is in a file that `found` gave, as a stream of bytes.

    Raises:
        OSError: it cannot be read; see UNREADABLE for reading on.
    """
    return cast("BinaryIO", gzip.open(path)) if path.suffix == ENDING else path.open("rb")


def read(path: Path) -> bytes:
    """All that is in a file; raises what is in UNREADABLE."""
    with opened(found(path)) as file:
        return file.read()


def why(error: BaseException) -> str:
    """What one of UNREADABLE says, in a few words."""
    return (error.strerror if isinstance(error, OSError) else None) or f"damaged: {error}"


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, which a record may hold
        return False
