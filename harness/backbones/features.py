"""Vision features of one training, kept on disk: a picture goes through a frozen tower once, not once per epoch."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

FREE_SHARE = 0.5  # of the disk's free space that features may take


class FeatureStore:
    """Features by the content of their picture, in a file that vanishes with the store.

    What is read is what was computed when the picture was first seen, bit by bit. Pictures beyond `capacity`, or
    beyond half of the disk's free space, are computed anew each time.
    """

    def __init__(self, folder: Path, *, capacity: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(dir=folder, prefix="features-", ignore_cleanup_errors=True)
        self._capacity = capacity
        self._rows: dict[bytes, int] = {}
        self._kept = torch.empty(0)

    def features(
        self, pixels: Float[Tensor, "N 3 H W"], keys: Sequence[bytes], compute: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "N tokens C"]:
        """`compute(pixels)`, but only of pictures that are new."""
        fresh = {key: row for row, key in reversed(list(enumerate(keys))) if key not in self._rows}
        if not fresh:
            return self._kept[[self._rows[key] for key in keys]].to(pixels.device)
        made = compute(pixels[list(fresh.values())])
        places = {key: place for place, key in enumerate(fresh)}
        known = self._rows.copy()
        self._add(places, made)
        kept = (self._kept[known[key]].to(made.device) if key in known else made[places[key]] for key in keys)
        return torch.stack(list(kept))

    def close(self) -> None:
        """Forget everything and free the disk."""
        self._rows, self._kept, self._capacity = {}, torch.empty(0), 0
        self._folder.cleanup()

    def _add(self, places: Mapping[bytes, int], made: Tensor) -> None:
        if not self._kept.numel():
            self._open(made)
        for key, place in list(places.items())[: self._capacity - len(self._rows)]:
            self._kept[len(self._rows)] = made[place].cpu()
            self._rows[key] = len(self._rows)

    def _open(self, made: Tensor) -> None:
        size = made[0].numel() * made.element_size()
        free = shutil.disk_usage(self._folder.name).free
        self._capacity = min(self._capacity, int(FREE_SHARE * free) // size)
        rows = max(1, self._capacity)
        path = str(Path(self._folder.name) / "features")
        kept = torch.from_file(path, shared=True, size=rows * made[0].numel(), dtype=made.dtype)
        self._kept = kept.view(rows, *made.shape[1:])


def picture_keys(pixels: Float[Tensor, "N 3 H W"]) -> tuple[bytes, ...]:
    """What tells pictures apart: the SHA-256 of their values."""
    return tuple(hashlib.sha256(picture.contiguous().view(torch.uint8).numpy()).digest() for picture in pixels)
