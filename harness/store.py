"""The results folder: `runs/<backbone>/<task>/<method>/<run_id>.json`, each file written once, never edited.

Safe for parallel writers and for writers killed at any moment: a file appears whole under its name or not
at all, and the predictions appear before the record that names them.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from harness import beside
from harness.collection import paused
from harness.record import SAMPLES, Cell, NamedFile, Record, RecordError, cell_key, load

_LONGEST_FOLDER = 120
_CHECK = "'vltune results check --results DIR' finds all such files"
_OBJECT = TypeAdapter(dict[str, Any])


class StoreError(OSError):
    """The results folder cannot take a record; one line naming the path and the fix."""


class Store:
    """The records below one results folder.

    Args:
        root: the results folder; made when first written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        # A record never changes once it has its name, so each file is parsed at most once.
        self._known: dict[Path, Record] = {}

    def check_writable(self) -> None:
        """Make the folder and write a trial file in it, so that hours of work do not end in a failed save.

        Raises:
            StoreError: it cannot be made or written.
        """
        folder = self.root / "runs"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as trial:
                trial.write(b"trial")
                trial.flush()
        except OSError as error:
            raise StoreError(
                f"results folder {self.root} cannot be written ({error.strerror}): choose another with --results DIR"
            ) from None

    def append(
        self,
        record: Record,
        predictions: Iterable[dict[str, Any]] | None,
        *,
        samples: Mapping[str, Sequence[float]] | None = None,
    ) -> Path:
        """Write a record, and beside it its predictions, one JSON line per example in the order given.

        `samples`, the readings of a run one by one by name (of `record.SAMPLES`), go into a file of their own, a line
        each. Fills `record.predictions` and `record.samples`. Returns the path of the record.

        Raises:
            StoreError: the run id is taken, or a file cannot be written.
            ValueError: `record.predictions` or `record.samples` is set already, or a prediction is no JSON (its index
                is named).
        """
        if record.predictions is not None or record.samples is not None:
            raise ValueError("record.predictions and record.samples are filled by the store: pass what they name")
        path = self.folder(record) / f"{record.run_id}.json"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                raise FileExistsError
            given = {"predictions": predictions, "samples": None if samples is None else _series(samples)}
            with _of(path) as written:
                named = {
                    kind: _write_beside(path.with_name(f"{record.run_id}.{kind}.jsonl"), rows, written)
                    for kind, rows in given.items()
                    if rows is not None
                }
                record = record.model_copy(update=named)
                _write_once(path, [record.to_json().encode()])
        except FileExistsError:
            raise StoreError(f"{path}: run id {record.run_id} is taken; records are never overwritten") from None
        except OSError as error:
            raise StoreError(f"{path}: cannot be written ({error.strerror}): choose another --results DIR") from error
        return path

    def sweep(self, cell: Cell) -> None:
        """Remove what writers of this cell's records that were killed have left behind: files of no record.

        For whoever holds the claim to the cell, and so is the only one who writes its records.
        """
        folder, own = self._folder(cell), re.compile(rf"\.?({run_ids(cell)})(\.\w+)+")
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                if found := own.fullmatch(path.name):
                    recorded = folder / f"{found[1]}.json"
                    if path.name.startswith(".") or not recorded.exists():
                        path.unlink(missing_ok=True)

    def rows(self, record: Record, named: NamedFile) -> list[dict[str, Any]]:
        """The lines of a file beside a record, as they were written; compressed since or not.

        Raises:
            StoreError: it is missing, cannot be read, or is not the file that the record names.
        """
        path = beside.found(self.folder(record) / named.file)
        fix = "restore it from a copy, or run the cell again with --fresh"
        try:
            content = beside.read(path)
        except beside.UNREADABLE as error:
            raise StoreError(f"{path}: cannot be read ({beside.why(error)}); {fix}") from None
        if hashlib.sha256(content).hexdigest() != named.sha256:
            raise StoreError(f"{path}: not the file that its record names (sha256), so it was edited or cut; {fix}")
        try:
            return parse_lines(content)
        except ValueError as error:
            raise StoreError(f"{path}: not what a run writes ({error}); {fix}") from None

    def samples(self, record: Record) -> dict[str, list[float]] | None:
        """The readings of a run one by one, by name (of `record.SAMPLES`); None for a record that has kept none.

        Raises:
            StoreError: as `rows`.
        """
        if record.samples is None:
            return None
        return {row["name"]: row["values"] for row in self.rows(record, record.samples)}

    def folder(self, record: Record) -> Path:
        """Where the files of a record lie."""
        return self._folder(record.cell)

    def _folder(self, cell: Cell) -> Path:
        return self.root.joinpath("runs", *map(folder_name, (cell.backbone, cell.task, cell.method)))

    def read(self) -> list[Record]:
        """Every record, sorted by run id, which is by start.

        Raises:
            RecordError: a record file is malformed, or two hold one run id; names them.
        """
        return self._read((self.root / "runs").rglob("*.json"))

    def _read(self, candidates: Iterable[Path]) -> list[Record]:
        # Hidden files are what killed writers left behind.
        found = (path for path in candidates if not path.name.startswith("."))
        # A backbone may be called llama.json, and so is its folder.
        paths = [path for path in found if path in self._known or path.is_file()]
        with paused():
            for path in paths:
                if path not in self._known:
                    self._known[path] = _load(path)
        ordered = sorted(paths, key=lambda path: (self._known[path].run_id, str(path)))
        for one, other in itertools.pairwise(ordered):
            # What is known of a run, its scores above all, is known by its id.
            if (run_id := self._known[one].run_id) == self._known[other].run_id:
                raise RecordError(f"{one} and {other} both hold run id {run_id}; {_CHECK}, and which one to keep")
        return [self._known[path] for path in ordered]

    def find(self, cell: Cell) -> Record | None:
        """The latest record of a cell that need not be run again: ok or skipped.

        Only the folder of such records is read, so that it takes no longer among ten thousand of other cells.

        Raises:
            RecordError: as `read`, of this folder.
        """
        key = cell_key(cell)
        recorded = self._read(self._folder(cell).glob("*.json"))
        done = (record for record in reversed(recorded) if record.status in ("ok", "skipped"))
        return next((record for record in done if cell_key(record.cell) == key), None)

    def failed_since(self, cell: Cell, since: datetime) -> Record | None:
        """The latest failed record of a cell that ended then or later."""
        key = cell_key(cell)
        recorded = reversed(self._read(self._folder(cell).glob("*.json")))
        return next(
            (r for r in recorded if r.status == "failed" and cell_key(r.cell) == key and ended(r) >= since), None
        )


def run_ids(cell: Cell) -> str:
    """A regular expression of what `record.new_run_id` makes for a cell."""
    return rf"\d{{8}}T\d{{9}}Z-{cell_key(cell)[:8]}-[0-9a-f]{{6}}"


def ended(record: Record) -> datetime:
    """When the last measurement of a run ended; long ago where its record does not say it."""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        found = datetime.fromisoformat(record.provenance["ended"])
        return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    return datetime.min.replace(tzinfo=UTC)


def parse_lines(content: bytes) -> list[dict[str, Any]]:
    """The objects of a file with one JSON object a line.

    Raises:
        ValueError: a line is no JSON object; names it.
    """
    # Not splitlines: answers may hold other line separators than the one that ends a line here.
    lines = [line for line in content.split(b"\n") if line]
    try:
        # In one go: line by line takes several times as long.
        rows = from_json(b"[%s]" % b",".join(lines))
    except ValueError:
        rows = []
    if len(rows) == len(lines) and all(type(row) is dict for row in rows):
        return cast(list[dict[str, Any]], rows)
    return [_object(number, line) for number, line in enumerate(lines, 1)]


def _object(number: int, line: bytes) -> dict[str, Any]:
    try:
        return _OBJECT.validate_json(line)
    except ValidationError as error:
        raise ValueError(f"line {number}: {error.errors(include_url=False)[0]['msg']}") from None


def _load(path: Path) -> Record:
    try:
        return load(path)
    except RecordError as error:
        raise RecordError(f"{error}; {_CHECK}") from None


def folder_name(name: str) -> str:
    """A name, which may be a path, as one folder: percent-encoded, and where too long cut with its hash added."""
    quoted = quote(name, safe="")
    if quoted.startswith("."):
        quoted = f"%2E{quoted[1:]}"
    if len(quoted) <= _LONGEST_FOLDER:
        return quoted
    return f"{quoted[: _LONGEST_FOLDER - 17]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _series(samples: Mapping[str, Sequence[float]]) -> Iterator[dict[str, Any]]:
    """A line for each kind of reading that was taken."""
    return (
        {"name": name, "unit": SAMPLES[name], "values": list(samples[name])} for name in SAMPLES if samples.get(name)
    )


@contextlib.contextmanager
def _of(record: Path) -> Iterator[list[Path]]:
    """Files to be written beside a record, which go again where no record comes to be."""
    written: list[Path] = []
    try:
        yield written
    finally:
        if not record.exists():
            for path in written:
                path.unlink(missing_ok=True)


def _write_beside(path: Path, rows: Iterable[dict[str, Any]], written: list[Path]) -> NamedFile:
    named = NamedFile(file=path.name, sha256=_write_once(path, _lines(rows)))
    written.append(path)  # not before: until then the name may be another writer's
    return named


def _lines(rows: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    for index, row in enumerate(rows):
        try:
            line = json.dumps(row, sort_keys=True, ensure_ascii=False, allow_nan=False)
            yield f"{line}\n".encode()
        except (TypeError, ValueError) as error:
            raise ValueError(f"prediction {index} cannot be written as JSON: {error}") from None


def _write_once(path: Path, chunks: Iterable[bytes]) -> str:
    """Write a new file whole and to the disk; returns the SHA-256 of its bytes.

    Raises:
        FileExistsError: `path` exists; it is left as it is.
    """
    digest = hashlib.sha256()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        _publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return digest.hexdigest()


def _publish(temporary: Path, path: Path) -> None:
    """Give a finished file its name unless that is taken; a link, unlike a rename, never overwrites."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # No hard links here (FAT, Google Drive, some network mounts): hold the name by a claim file instead.
        claim = path.with_name(f".{path.name}.claim")
        os.close(os.open(claim, os.O_CREAT | os.O_EXCL))
        try:
            if path.exists():
                raise FileExistsError from None
            temporary.rename(path)
        finally:
            claim.unlink()


def _sync_folder(folder: Path) -> None:
    # Windows and some network mounts cannot sync a folder; the file's own bytes are on the disk already.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
