"""Cached data sets of the mini world: written beside their place, renamed when complete."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path


def all_sizes(defaults: Mapping[str, int], sizes: Mapping[str, int]) -> dict[str, int]:
    """The given split sizes, and the defaults of the others.

    Raises:
        ValueError: an unknown split.
    """
    if unknown := set(sizes) - set(defaults):
        raise ValueError(f"unknown splits {sorted(unknown)}; known: {', '.join(defaults)}")
    return {**defaults, **sizes}


def split_sizes(*, train: int, val: int, test: int) -> dict[str, int]:
    """The sizes by split, in the order in which splits are written.

    Raises:
        ValueError: a negative size.
    """
    sizes = {"train": train, "val": val, "test": test}
    if min(sizes.values()) < 0:
        raise ValueError(f"split sizes must not be negative, got {sizes}")
    return sizes


def ensure_folder(cache_root: Path, name: str, key: object, write: Callable[[Path], None]) -> Path:
    """The folder `name`-HASH of a data set, written on first use; a killed write leaves no half data set behind.

    Args:
        cache_root: where it lies; created if need be.
        name: the kind of data set.
        key: all that decides its content, as JSON has it.
        write: fills an empty folder.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    target = cache_root / f"{name}-{digest[:12]}"
    if target.is_dir():
        return target
    cache_root.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=cache_root))
    try:
        write(partial)
        partial.chmod(0o755)
        try:
            partial.rename(target)
        except OSError:  # another process was first
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target
