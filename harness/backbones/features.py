"""Vision features of one training, kept on disk: a picture goes through a frozen tower once, not once per epoch."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import torch
from jaxtyping import Float
from torch import Tensor

from harness.progress import note

OF = "-of-"
"""Between the two parts of a name: whose features they are, and what they were made with."""
FREE_SHARE = 0.5  # of the disk's free space that features may take
KEY_BYTES, CHECK_BYTES = 32, 4
# All that files of another program may lead to; RecursionError is a RuntimeError.
_UNUSABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError)


class FeatureStore:
    """Features by the content of their picture, in a file that vanishes with the store unless it has a name.

    What is read is what was computed when the picture was first seen, bit by bit. Pictures beyond `capacity`, or
    beyond half of the disk's free space, are computed anew each time, and so are all from where the disk takes no more.

    Under a name the files stay, for a process that goes on with the same training: `features` holds the rows, `index`
    a line of JSON (dtype, and shape with the number of rows) with its checksum, and then for each row the key of its
    picture and a checksum, those of one batch in a single write. What is damaged is made anew. Only one process at a
    time may use a name. Of two names that begin alike up to `OF`, the later one removes what the other has left.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, *, capacity: int, name: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if name is not None:
            self._folder = folder / name
            discard(folder, name.partition(OF)[0], but=name)
        else:
            self._temporary = tempfile.TemporaryDirectory(dir=folder, prefix="features-", ignore_cleanup_errors=True)
            self._folder = Path(self._temporary.name)
        self._limit = self._capacity = capacity
        self._rows: dict[bytes, int] = {}
        self._kept = torch.empty(0)
        self._index: IO[bytes] | None = None
        self._file: IO[bytes] | None = None
        if self._temporary is None and not self._reopen():
            self._start_over()

    def features(
        self, pixels: Float[Tensor, "N 3 H W"], keys: Sequence[bytes], compute: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "N tokens C"]:
        """`compute(pixels)`, but only of pictures that are new."""
        fresh = {key: row for row, key in reversed(list(enumerate(keys))) if key not in self._rows}
        if not fresh:
            return self._kept[[self._rows[key] for key in keys]].to(pixels.device)
        made = compute(pixels[list(fresh.values())])
        if self._kept.numel() and (made.dtype, made.shape[1:]) != (self._kept.dtype, self._kept.shape[1:]):
            self._start_over()  # what was kept is of another tower
            return self.features(pixels, keys, compute)
        places = {key: place for place, key in enumerate(fresh)}
        known = self._rows.copy()
        self._add(places, made)
        kept = (self._kept[known[key]].to(made.device) if key in known else made[places[key]] for key in keys)
        return torch.stack(list(kept))

    def close(self) -> None:
        """Forget everything, and free the disk unless the store has a name."""
        self._rows, self._kept, self._capacity = {}, torch.empty(0), 0
        self._close_files()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _add(self, places: Mapping[bytes, int], made: Tensor) -> None:
        try:
            if not self._kept.numel() and self._capacity:
                self._begin(made)
            self._write(list(places.items())[: self._capacity - len(self._rows)], made)
        except OSError as error:  # the disk is full, or gone
            self._capacity = len(self._rows)
            note(f"{self._folder}: {error.strerror or error}; features of further pictures are computed every time")

    def _write(self, fresh: Sequence[tuple[bytes, int]], made: Tensor) -> None:
        entries = []
        for key, place in fresh:
            row, content = len(self._rows), made[place].detach().cpu().contiguous()
            raw = content.view(torch.uint8).numpy().tobytes()
            # Not through the map, where a full disk ends the process.
            _write_at(self._file, raw, row * len(raw))
            self._rows[key] = row
            entries.append(key + _checksum(content))
        if self._index is not None:
            # At once: a process that is killed has kept all new pictures of a batch, or none of them.
            self._index.write(b"".join(entries))

    def _begin(self, made: Tensor) -> None:
        size = made[0].numel() * made.element_size()
        free = shutil.disk_usage(self._folder).free
        self._capacity = min(self._capacity, int(FREE_SHARE * free) // size)
        rows = max(1, self._capacity)
        self._map(made.dtype, (rows, *made.shape[1:]))
        if self._temporary is None:
            self._index = (self._folder / "index").open("wb", buffering=0)
            shape = {"dtype": str(made.dtype).removeprefix("torch."), "shape": [rows, *made.shape[1:]]}
            self._index.write(_header(json.dumps(shape).encode()))

    def _map(self, dtype: torch.dtype, shape: Sequence[int]) -> None:
        size = torch.Size(shape)
        path = self._folder / "features"
        try:
            kept = torch.from_file(str(path), shared=True, size=size.numel(), dtype=dtype)
        except RuntimeError as error:  # torch's own where it cannot make the file as long
            raise OSError(str(error).splitlines()[0]) from error
        self._file = path.open("r+b", buffering=0)
        self._kept = kept.view(size)

    def _start_over(self) -> None:
        """Forget what is kept under this name, whatever lies there."""
        self._rows, self._kept, self._capacity = {}, torch.empty(0), self._limit
        self._close_files()
        if self._folder.is_dir() and not self._folder.is_symlink():
            shutil.rmtree(self._folder)
        self._folder.unlink(missing_ok=True)
        self._folder.mkdir()

    def _close_files(self) -> None:
        for file in (self._index, self._file):
            if file is not None:
                file.close()
        self._index = self._file = None

    def _reopen(self) -> bool:
        """Go on with what an earlier process left under this name, up to the first row that is damaged."""
        try:
            line, _, entries = (self._folder / "index").read_bytes().partition(b"\n")
            header, _, _ = line.rpartition(b" ")
            if line + b"\n" != _header(header):
                return False
            found = json.loads(header)
            dtype, shape = getattr(torch, found["dtype"]), [int(size) for size in found["shape"]]
            whole = torch.Size(shape).numel() * dtype.itemsize == (self._folder / "features").stat().st_size
            if not whole or min(shape) < 1:
                return False
            self._map(dtype, shape)
            for row, (key, check) in enumerate(_entries(entries)):
                if row >= len(self._kept) or _checksum(self._kept[row]) != check:
                    break
                self._rows[key] = row
            self._index = (self._folder / "index").open("r+b", buffering=0)
        except _UNUSABLE:
            return False
        self._capacity = shape[0]
        self._index.truncate(len(line) + 1 + len(self._rows) * (KEY_BYTES + CHECK_BYTES))
        self._index.seek(0, 2)
        return True


def discard(folder: Path, whose: str, *, but: str | None = None) -> None:
    """Remove what is kept under names that are this one, or begin with it before `OF`; all `but` one of them."""
    for path in (folder / whose, *folder.glob(f"{whose}{OF}*")):
        if path.name != but:
            shutil.rmtree(path, ignore_errors=True)


def _write_at(file: IO[bytes] | None, content: bytes, offset: int) -> None:
    """All of it; the system may take a part at a time."""
    if file is None:
        raise ValueError("there is no file to write to")
    raw = memoryview(content)
    while raw:
        written = os.pwrite(file.fileno(), raw, offset)
        raw, offset = raw[written:], offset + written


def _header(text: bytes) -> bytes:
    return b"%s %08x\n" % (text, zlib.crc32(text))


def _entries(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Key and checksum of each whole entry."""
    size = KEY_BYTES + CHECK_BYTES
    for start in range(0, len(raw) - size + 1, size):
        yield raw[start : start + KEY_BYTES], raw[start + KEY_BYTES : start + size]


def _checksum(row: Tensor) -> bytes:
    return zlib.crc32(row.contiguous().view(torch.uint8).numpy().data).to_bytes(CHECK_BYTES)


def picture_keys(pixels: Float[Tensor, "N 3 H W"]) -> tuple[bytes, ...]:
    """What tells pictures apart: the SHA-256 of their values."""
    return tuple(hashlib.sha256(picture.contiguous().view(torch.uint8).numpy()).digest() for picture in pixels)
