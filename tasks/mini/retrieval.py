"""The mini world's data for image-text retrieval: the captioned pictures of `pairs`."""

from __future__ import annotations

from pathlib import Path

from . import pairs


def ensure(cache_root: Path, *, seed: int = 0, **sizes: int) -> Path:
    """The folder of the captioned pictures, see `pairs.ensure`."""
    return pairs.ensure(cache_root, seed=seed, **sizes)
