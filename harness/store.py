"""The results folder: `runs/<backbone>/<task>/<method>/<run_id>.json`, each file written once, never edited.

Safe for parallel writers and for writers killed at any moment: a file appears whole under its name or not
at all, and the predictions appear before the record that names them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.record import PredictionsFile, Record, RecordError, cell_key, load

_LONGEST_FOLDER = 120


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

    def append(self, record: Record, predictions: Iterable[dict[str, Any]] | None) -> Path:
        """Write a record, and beside it its predictions, one JSON line per example in the order given.

        Fills `record.predictions`. Returns the path of the record.

        Raises:
            StoreError: the run id is taken, or a file cannot be written.
            ValueError: `record.predictions` is set already, or a prediction is no JSON (its index is named).
        """
        if record.predictions is not None:
            raise ValueError("record.predictions is filled by the store: pass the predictions themselves")
        path = self.folder(record) / f"{record.run_id}.json"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                raise FileExistsError
            if predictions is not None:
                beside = path.with_name(f"{record.run_id}.predictions.jsonl")
                named = PredictionsFile(file=beside.name, sha256=_write_once(beside, _lines(predictions)))
                record = record.model_copy(update={"predictions": named})
            _write_once(path, [record.to_json().encode()])
        except FileExistsError:
            raise StoreError(f"{path}: run id {record.run_id} is taken; records are never overwritten") from None
        except OSError as error:
            raise StoreError(f"{path}: cannot be written ({error.strerror}): choose another --results DIR") from error
        return path

    def folder(self, record: Record) -> Path:
        """Where the files of a record lie."""
        cell = record.cell
        return self.root.joinpath("runs", *map(folder_name, (cell.backbone, cell.task, cell.method)))

    def read(self) -> list[Record]:
        """Every record, sorted by run id, which is by start.

        Raises:
            RecordError: a record file is malformed; names it.
        """
        # Hidden files are what killed writers left behind.
        found = (path for path in (self.root / "runs").rglob("*.json") if not path.name.startswith("."))
        # A backbone may be called llama.json, and so is its folder.
        paths = [path for path in found if path in self._known or path.is_file()]
        for path in paths:
            if path not in self._known:
                self._known[path] = _load(path)
        return [self._known[path] for path in sorted(paths, key=lambda path: (self._known[path].run_id, str(path)))]

    def find(self, key: str) -> Record | None:
        """The latest record of a cell (by `cell_key`) that need not be run again: ok or skipped.

        Raises:
            RecordError: a record file is malformed; names it.
        """
        done = (record for record in reversed(self.read()) if record.status in ("ok", "skipped"))
        return next((record for record in done if cell_key(record.cell) == key), None)


def _load(path: Path) -> Record:
    try:
        return load(path)
    except RecordError as error:
        raise RecordError(f"{error}; 'vltune results check' finds all such files") from None


def folder_name(name: str) -> str:
    """A name, which may be a path, as one folder: percent-encoded, and where too long cut with its hash added."""
    quoted = quote(name, safe="")
    if quoted.startswith("."):
        quoted = f"%2E{quoted[1:]}"
    if len(quoted) <= _LONGEST_FOLDER:
        return quoted
    return f"{quoted[: _LONGEST_FOLDER - 17]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _lines(predictions: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    for index, prediction in enumerate(predictions):
        try:
            line = json.dumps(prediction, sort_keys=True, ensure_ascii=False, allow_nan=False)
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
