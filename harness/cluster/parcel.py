"""What comes back from a node: the lines that a cell says, then its files, in pieces that fit into any object store.

A node is trusted to measure, not to name files: what it sends lies apart until it is known to be whole and to be the
record of the cell that was asked for, and it goes nowhere but into the folders of that cell.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.record import Cell, Record, RecordError, cell_key
from harness.store import Store, StoreError, folder_name

PIECE_BYTES = 8 * 2**20
BESIDE = ("adapters", "profiles", "tensorboard")
"""Folders of the results, other than `runs`, in which a cell leaves files: below BACKBONE/TASK/METHOD of each."""


class ParcelError(ValueError):
    """What a node sent is not what the run of a cell leaves; one line."""


@dataclass(frozen=True)
class Line:
    """A line that the cell said."""

    text: str


@dataclass(frozen=True)
class Piece:
    """The next bytes of a file; `path` is relative to the results folder, with slashes."""

    path: str
    content: bytes


@dataclass(frozen=True)
class Ended:
    """The last message. `failure` says why there is no record; None where all of its files were sent."""

    failure: str | None


Message = Line | Piece | Ended


def pieces(folder: Path) -> Iterator[Piece]:
    """The files that a cell left in a results folder of its own."""
    for top in ("runs", *BESIDE):
        for path in sorted((folder / top).rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                name = path.relative_to(folder).as_posix()
                with path.open("rb") as file:
                    yield Piece(name, file.read(PIECE_BYTES))
                    while content := file.read(PIECE_BYTES):
                        yield Piece(name, content)


class Arrivals:
    """The files of one cell while they come in; a context, which leaves nothing of them behind.

    Args:
        results: the results folder of the driver; the files wait in a hidden folder of it.

    Raises:
        StoreError: it cannot be written.
    """

    def __init__(self, results: Path) -> None:
        self._results = results
        try:
            self._holder = tempfile.TemporaryDirectory(prefix=".arriving-", dir=results)
        except OSError as error:
            raise self._unwritable(error) from error
        self._store = Store(Path(self._holder.name))

    def __enter__(self) -> Arrivals:
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.cleanup()

    def add(self, piece: Piece) -> None:
        """Keep a piece, after those of the same file that came before.

        Raises:
            ParcelError: its name is none of a file that a cell leaves.
            StoreError: it cannot be written, as on a full disk.
        """
        path = PurePosixPath(piece.path)
        if len(path.parts) < 5 or path.parts[0] not in ("runs", *BESIDE) or not all(map(_plain, path.parts)):
            raise ParcelError(f"a node sent a file by the name {piece.path!r}, which no run leaves")
        target = self._store.root.joinpath(*path.parts)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("ab") as file:
                file.write(piece.content)
        except OSError as error:
            raise self._unwritable(error) from error

    def record(self, cell: Cell) -> Record:
        """The record that came.

        Raises:
            ParcelError: there is none or several, it is damaged, or it is of another cell.
        """
        try:
            records = self._store.read()
        except RecordError as error:
            raise ParcelError(f"the record that came back is damaged: {error}") from None
        if len(records) != 1:
            raise ParcelError(f"{len(records)} records came back, not one")
        if cell_key(records[0].cell) != cell_key(cell):
            raise ParcelError("the record that came back is of another cell")
        return records[0]

    def deliver(self, record: Record, store: Store) -> Path:
        """Write the record with all its files into the driver's results. Returns the path of the record.

        Raises:
            ParcelError: a file that the record names did not come, or is damaged.
            StoreError: the run id is taken, or a file cannot be written.
        """
        try:
            predictions = None if record.predictions is None else self._store.rows(record, record.predictions)
            samples = self._store.samples(record)
        except StoreError as error:
            raise ParcelError(f"what came back is damaged: {error}") from None
        self._move_beside(record)
        unnamed = record.model_copy(update={"predictions": None, "samples": None})
        return store.append(unnamed, predictions, samples=samples)

    def _move_beside(self, record: Record) -> None:
        """The files that are no record keep their places; what lies there already stays as it is."""
        names = map(folder_name, (record.cell.backbone, record.cell.task, record.cell.method))
        below = PurePosixPath(*names)
        for top in BESIDE:
            for path in sorted(self._store.root.joinpath(top, below).rglob("*")):
                target = self._results / path.relative_to(self._store.root)
                if path.is_file() and not target.exists():
                    try:
                        target.parent.mkdir(parents=True, exist_ok=True)
                        path.replace(target)
                    except OSError as error:
                        raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> StoreError:
        return StoreError(
            f"results folder {self._results} cannot be written ({error.strerror}): choose another --results DIR"
        )


def _plain(part: str) -> bool:
    return part not in (".", "..") and part.isprintable() and not set(part) & set("/\\:")
