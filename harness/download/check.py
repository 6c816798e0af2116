"""What a data folder lacks, and how to get it: for the end of `data download`, and for `data check`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from harness.download import DownloadError, folder, record
from harness.download.record import DownloadRecord
from harness.download.sources import DATA_SETS, DataSet, OnRequest
from harness.progress import size_text
from tasks import DataError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def lacking(data_set: DataSet, root: Path) -> str | None:
    """What the tasks' own readers miss in a folder, pictures included but not decoded; None where nothing is."""
    look = _look_for_questions if data_set.tasks == ("scienceqa",) else _look_for_captions
    try:
        for split in SPLITS:
            look(root, split)
    except DataError as error:
        asked = data_set.on_request
        if asked is None:
            return f"what was downloaded is not whole: {error}"
        said = error if (root / asked.unpack.to).exists() else root
        return f"{said}: {_how_to_ask(data_set, asked, root)}"
    return None


def next_steps(data_set: DataSet, root: Path) -> str:
    """What to do with a folder that is whole."""
    where = f"--task {data_set.tasks[0]} --data-root {shlex.quote(str(root))}"
    return (
        f"{root} is whole. Terms of {data_set.name}: {data_set.terms}. Next:\n"
        f"  vltune data check {where}\n"
        f"  vltune run --methods ademvl,memvp {where}"
    )


def verify(task: str, root: Path) -> list[str]:
    """Hold the folders that a task reads against their download.json, if they have one.

    Returns:
        A line for each of them; none where nothing was downloaded.

    Raises:
        DataError: one is not finished, or something was lost or changed since; says what, and how to get it.
    """
    verified = []
    try:
        for home, known in _downloaded(task, root):
            data_set = DATA_SETS[known.data_set]
            if lost := list(_lost(data_set, known, home)):
                raise DataError(f"{home}: {', '.join(lost)}; '{_command(data_set, home)}' fetches what is missing")
            verified.append(f"{home}: {len(known.files)} files as {record.NAME} has them")
    except (DownloadError, OSError) as error:
        raise DataError(str(error)) from None
    return verified


def how_to_get(task: str, root: Path, *, error: str) -> str | None:
    """How to get what a folder lacks.

    Args:
        task: which could not read it.
        root: the folder.
        error: what the task said; a part that it does not name is not what is amiss.

    Returns:
        A few words; None where a download is no cure, or nothing tells which data set it should be.
    """
    known = [data_set for data_set in DATA_SETS.values() if task in data_set.tasks]
    named = [data_set for data_set in known if (root / f"dataset_{data_set.name}.json").exists()]
    if len(known) == 1 or len(named) == 1:
        return _how_to_get_rest((named or known)[0], root, error)
    if known and (not root.exists() or (root.is_dir() and not any(root.iterdir()))):
        others = ", ".join(data_set.name for data_set in known[1:])
        return f"'{_command(known[0], root)}' fetches one (or take {others})"
    return None


def _how_to_get_rest(data_set: DataSet, root: Path, error: str) -> str | None:
    home = root / data_set.name if (root / data_set.name).is_dir() else root
    places = [source.unpack.to if source.unpack else source.name for source in data_set.sources]
    missing = [place for place in places if not (home / place).exists()]
    if missing:
        amiss = not home.exists() or any(place in error for place in missing)
        return f"'{_command(data_set, home)}' fetches {', '.join(missing)}" if amiss else None
    asked = data_set.on_request
    return _how_to_ask(data_set, asked, home) if asked and not (home / asked.unpack.to).exists() else None


def _how_to_ask(data_set: DataSet, asked: OnRequest, root: Path) -> str:
    return (
        f"the pictures are given out on request only: ask for them with the form {asked.form}, then run "
        f"'{_command(data_set, root)} --archive {asked.archive}', or unpack them into {root / asked.unpack.to}"
    )


def _command(data_set: DataSet, root: Path) -> str:
    return f"vltune data download {data_set.name} --data-root {shlex.quote(str(root))}"


def _look_for_questions(root: Path, split: Split) -> None:
    from tasks.io.scienceqa_problems import check_picture_files, find_folder, read_questions

    check_picture_files(read_questions(find_folder(root), split, captions=True))


def _look_for_captions(root: Path, split: Split) -> None:
    from tasks.io.caption_files import read_captions

    read_captions(root, split, limit=None)


def _downloaded(task: str, root: Path) -> Iterator[tuple[Path, DownloadRecord]]:
    """The folders that `root` may stand for and that were downloaded for a task: itself, or those right in it."""
    if not root.is_dir():
        return
    here = record.read(root)
    homes = [root] if here else sorted(inner for inner in root.iterdir() if inner.is_dir())
    for home in homes:
        known = here or record.read(home)
        if known and known.data_set in DATA_SETS and task in DATA_SETS[known.data_set].tasks:
            yield home, known


def _lost(data_set: DataSet, known: DownloadRecord, home: Path) -> Iterator[str]:
    for source in data_set.sources:
        fetched = known.files.get(source.name)
        if fetched is None:
            part = home / f"{source.name}.part"
            begun = f" beyond {size_text(part.stat().st_size)}" if part.exists() else ""
            yield f"{source.name} is not downloaded{begun}"
        elif source.unpack and not fetched.unpacked:
            yield f"{source.name} is not unpacked"
    for name, fetched in known.files.items():
        if not folder.is_whole(home, name, fetched):
            some = f"some of the {fetched.unpacked.files:,} files of {name}" if fetched.unpacked else name
            yield f"{some} is missing"
