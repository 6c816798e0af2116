"""What each run answered: the predictions beside the records, only where they are the file that the record names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from harness import beside
from harness.record import Record
from harness.statistics import example_scores
from harness.statistics.example_scores import Scores
from harness.statistics.paired import Incomparable
from harness.store import Store, StoreError, parse_lines
from tasks import ExampleScore

NO_FOLDER = "the report was made without the results folder"
# Several parts of a table ask for the scores of the same runs, one after the other; those of all tables are too many.
_KEPT = 200


class NoAnswersError(ValueError):
    """Why answers cannot be shown, in words for the reader of the page."""


def read(record: Record, store: Store) -> list[dict[str, Any]]:
    """The predictions of a run in their order.

    Raises:
        NoAnswersError: none were saved, the file is gone, not the one that the record names, or malformed.
    """
    name, content = _content(record, store)
    try:
        lines = parse_lines(content)
        ids = [line["id"] for line in lines]
    except (ValueError, KeyError):
        raise NoAnswersError(f"{name} does not hold predictions") from None
    if not all(isinstance(id, str) for id in ids):
        raise NoAnswersError(f"{name} has an id that is no text")
    if len(set(ids)) != len(ids):
        raise NoAnswersError(f"{name} answers an example twice")
    return lines


def scores(store: Store | None) -> Scores:
    """Reads scores by example, for the page: a file that cannot be used is a reason, and no end of the page.

    Returns:
        `harness.statistics.example_scores.reader`, which here raises `Incomparable` where there is no folder to read
        from, and where the file is gone, malformed or not the one that the record names.
    """
    if store is None:
        return _no_folder
    read_scores = example_scores.reader(store)
    known: dict[str, Mapping[str, ExampleScore]] = {}

    def checked(record: Record) -> Mapping[str, ExampleScore]:
        if record.predictions is None:
            return {}
        if record.run_id in known:
            return known[record.run_id]
        try:
            found = read_scores(record)
        except StoreError:
            raise Incomparable(_why_none(record, store)) from None
        if len(known) >= _KEPT:
            known.clear()
        known[record.run_id] = found
        return found

    return checked


def _why_none(record: Record, store: Store) -> str:
    """Why the scores of a run cannot be used: the file, or what it holds."""
    try:
        name, _ = _content(record, store)
    except NoAnswersError as error:
        return str(error)
    return f"{name} does not hold the scores that a run writes"


def _no_folder(record: Record) -> Mapping[str, ExampleScore]:
    raise Incomparable(NO_FOLDER)


def _content(record: Record, store: Store) -> tuple[str, bytes]:
    """Name and bytes of the predictions that a record names."""
    if record.predictions is None:
        raise NoAnswersError(f"run {record.run_id} has no saved predictions")
    path = beside.found(store.folder(record) / record.predictions.file)
    try:
        content = beside.read(path)
    except beside.UNREADABLE as error:
        raise NoAnswersError(f"{path.name} cannot be read ({beside.why(error)})") from None
    if hashlib.sha256(content).hexdigest() != record.predictions.sha256:
        raise NoAnswersError(f"{path.name} is not the file that its record names: it was edited or cut")
    return path.name, content
