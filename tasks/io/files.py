"""Looking for files whose names come out of data."""

from __future__ import annotations

import errno
from pathlib import Path

LONGEST_BYTES = 255
"""Of a name, on all usual file systems."""


def is_file(path: Path) -> bool:
    """Whether there is such a file; as `Path.is_file`, but for a name that is too long for any file too.

    Raises:
        PermissionError: a folder above it may not be looked into.
    """
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def is_bare(name: str) -> bool:
    """Whether a file or folder right in another one can have this name, which then does not lead out of that."""
    plain = name not in ("", ".", "..") and Path(name).name == name and "\0" not in name
    return plain and len(name.encode("utf-8", "surrogatepass")) <= LONGEST_BYTES
