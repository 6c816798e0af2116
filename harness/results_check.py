"""`results check`: whether a results folder still holds what its runs wrote.

Reads one file at a time and changes nothing. What a record must be is said by `record.load`, where its files lie by
`store.Store`.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness import beside
from harness.one_line import printable
from harness.record import SEAL, SEAL_LENGTH, NamedFile, Record, RecordError, cell_key, load
from harness.store import Store

_BESIDE = ("predictions", "samples")
_TEMPORARY = re.compile(r"\..+\.(?:[0-9a-f]{8}\.tmp|claim)", re.DOTALL)
_RUN_ID = re.compile(r"\d{8}T\d{9}Z-(?P<key>[0-9a-f]{8})-[0-9a-f]{6}")
_UPDATE = "update vltune"
_RESTORE = "restore it from a copy, or delete the record with its files and run the cell again"
_CHUNK_BYTES = 1 << 20
_LONGEST = 500


@dataclass(frozen=True, order=True)
class Problem:
    """What is wrong with one file or folder, and what to do about it; as text one line."""

    path: Path
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{printable(str(self.path))}: {printable(self.what)[:_LONGEST]}; {printable(self.fix)}"


@dataclass
class _Check:
    """The store, the first record of each run id, and what was found so far."""

    store: Store
    first: dict[str, Path] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def report(self, path: Path, what: str, fix: str) -> None:
        self.problems.append(Problem(path, what, fix))


def check(root: Path) -> list[Problem]:
    """Everything that is wrong below a results folder, sorted by path; empty where nothing is."""
    here = _Check(Store(root))
    if not (root / "runs").is_dir():
        here.report(root / "runs", "no such folder", "name the folder that holds runs/; 'vltune run' makes it")
        return here.problems
    for folder, names in _walk(root / "runs", here):
        _check_folder(here, folder, names)
    for folder, names in _walk(root / "adapters", here):
        _check_leftovers(here, folder, names)
    return sorted(here.problems)


def count(root: Path) -> int:
    """How many records a results folder holds, readable or not."""
    return sum(_is_record(name) for _, names in _walk(root / "runs", None) for name in names)


def unsealed(root: Path, problems: Sequence[Problem] = ()) -> int:
    """How many records end without a seal, as those did that are older than it; problems are not counted again."""
    known = {problem.path for problem in problems}
    paths = (folder / name for folder, names in _walk(root / "runs", None) for name in names if _is_record(name))
    return sum(path not in known and _is_file(path) and not _ends_sealed(path) for path in paths)


def report(root: Path, problems: Sequence[Problem]) -> str:
    """A line for each problem of a results folder, and one that counts them."""
    found, unsure = count(root), unsealed(root, problems)
    records = f"{found:,} record{'s' * (found != 1)}"
    if unsure:
        records += f" ({unsure:,} without a seal, so that edits do not show)"
    verdict = f"{len(problems):,} problem{'s' * (len(problems) != 1)}" if problems else "no problem"
    return "\n".join([*map(str, problems), f"{printable(str(root))}: {records}, {verdict}"])


def _ends_sealed(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - SEAL_LENGTH))
            return SEAL.fullmatch(file.read()) is not None
    except OSError:
        return False


def _walk(top: Path, here: _Check | None) -> Iterator[tuple[Path, list[str]]]:
    """Each folder with the names in it, in order; a folder that cannot be listed is a problem."""

    def unlisted(error: OSError) -> None:
        if here is not None and not isinstance(error, FileNotFoundError):
            here.report(Path(error.filename), f"cannot be listed: {error.strerror}", "make it readable")

    for folder, folders, files in os.walk(top, onerror=unlisted):
        folders.sort()
        yield Path(folder), sorted([*files, *(name for name in folders if _TEMPORARY.fullmatch(name))])


def _is_record(name: str) -> bool:
    # As `Store.read` has it.
    return name.endswith(".json") and not name.startswith(".")


def _check_folder(here: _Check, folder: Path, names: Sequence[str]) -> None:
    _check_leftovers(here, folder, names)
    taken = {file for name in names if _is_record(name) for file in _check_record(here, folder / name)}
    for name in names:
        written = name.removesuffix(beside.ENDING)
        if written.endswith(".jsonl") and not name.startswith(".") and written not in taken:
            fix = "delete it, unless a run is still writing its record or that can be restored from a copy"
            kind = "samples" if written.endswith(".samples.jsonl") else "predictions"
            here.report(folder / name, f"{kind} of no record", fix)


def _check_leftovers(here: _Check, folder: Path, names: Sequence[str]) -> None:
    for name in names:
        if _TEMPORARY.fullmatch(name):
            fix = "delete it, unless a run is writing to this folder now"
            here.report(folder / name, "left behind by a writer that was killed", fix)


def _check_record(here: _Check, path: Path) -> list[str]:
    """Check one record; returns the names of the files that are its own, though it may be unreadable."""
    if not _is_file(path):
        here.report(path, "no file that can be read", "make it readable, or move it out of the results")
        return []
    try:
        record = load(path)
    except RecordError as error:
        here.problems.append(_unreadable(path, str(error).removeprefix(f"{path}: ")))
        return [f"{path.stem}.{kind}.jsonl" for kind in _BESIDE]
    _check_place(here, path, record)
    key, made = cell_key(record.cell)[:8], _RUN_ID.fullmatch(record.run_id)
    if made and made["key"] != key:
        here.report(path, f"the cell was edited: its key is {key}, the run id says {made['key']}", _RESTORE)
    own = [(record.predictions, _evaluated(record), "predictions"), (record.samples, None, "samples")]
    for named, expected, kind in own:
        if named is not None:
            _check_beside(here, path, named, lines=expected, kind=kind)
    return [named.file for named, _, _ in own if named is not None]


def _unreadable(path: Path, what: str) -> Problem:
    what, newer, _ = what.partition(f"; {_UPDATE}")
    if newer:
        return Problem(path, what, _UPDATE)
    if what.startswith("no valid JSON"):
        what = f"{_cut_off(path)}{what}"
    return Problem(path, what, _RESTORE)


def _cut_off(path: Path) -> str:
    """What a file that is no JSON looks like: empty, cut off, or neither."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 64))
        end = file.read().rstrip()
    if not size:
        return "the file is empty: "
    # Every brace but the last one is indented in what the store writes.
    return "" if end.endswith(b"\n}" if b"\n" in end else b"}") else "the file is cut off: "


def _check_place(here: _Check, path: Path, record: Record) -> None:
    """Name, folder and run id belong together, and a run id to one record."""
    folder, name = here.store.folder(record), f"{record.run_id}.json"
    twin = folder / name if path != folder / name and _is_file(folder / name) else here.first.get(record.run_id)
    if twin is not None:
        keep = f"keep one of the two as {folder / name}"
        here.report(path, f"holds run id {record.run_id}, as does {twin}", keep)
        return
    here.first[record.run_id] = path
    if path.name != name:
        here.report(path, f"holds run id {record.run_id}, which is not its name", f"rename it to {name}")
    if path.parent != folder:
        cell = f"{record.cell.method} on {record.cell.task} with {record.cell.backbone}"
        here.report(path, f"holds a run of {cell}", f"move it with its predictions to {folder}")


def _check_beside(here: _Check, path: Path, named: NamedFile, *, lines: int | None, kind: str) -> None:
    """Hold a file beside a record against what that says of it: its hash, and the number of lines where it is known."""
    file = beside.found(path.with_name(named.file))
    if not _is_file(file):
        here.report(path, f"its {kind} {named.file} are not there", _RESTORE)
        return
    try:
        sha256, found, whole = _read(file)
    except beside.UNREADABLE as error:
        fix = "make it readable" if isinstance(error, PermissionError) else _RESTORE
        here.report(file, f"cannot be read: {beside.why(error)}", fix)
        return
    wrong = []
    if lines is not None and found != lines:
        wrong.append(f"{found:,} lines for {lines:,} examples")
    if not whole:
        wrong.append("the last line is cut off")
    if sha256 != named.sha256:
        wrong.append("the sha256 is not the one in the record")
    if wrong:
        here.report(file, ", ".join(wrong), _RESTORE)


def _evaluated(record: Record) -> int | None:
    """How many examples were predicted; None for a record that does not say it."""
    data = record.cell.options.get("data")
    found = data.get("eval") if isinstance(data, dict) else None
    return found if isinstance(found, int) else None


def _read(path: Path) -> tuple[str, int, bool]:
    """SHA-256 of a file, its lines, and whether the last one ends."""
    digest, lines, last = hashlib.sha256(), 0, b"\n"
    with beside.opened(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            lines += chunk.count(b"\n")
            last = chunk[-1:]
    whole = last == b"\n"
    return digest.hexdigest(), lines + (not whole), whole


def _is_file(path: Path) -> bool:
    # Unlike Path.is_file, for names that are too long and folders that are closed too; a pipe would be read for ever.
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False
