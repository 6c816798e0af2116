"""What a tuned run recorded, and scores set by the test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import tune
from harness.record import Record
from harness.store import Store
from harness.train import DivergedError
from tasks import Metric

Run = Callable[..., int]
Captured = pytest.CaptureFixture[str]


def records(tmp_path: Path, results: str = "results") -> list[Record]:
    return Store(tmp_path / results).read()


def report(record: Record) -> dict[str, Any]:
    return record.provenance["tuning"]  # type: ignore[no-any-return]


def trials(record: Record) -> list[dict[str, Any]]:
    """What does not depend on the clock."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in report(record)["trials"]]


def set_scores(monkeypatch: pytest.MonkeyPatch, values: Sequence[float | None]) -> None:
    """The validation scores of a whole tuning, in their order."""
    left = iter(values)

    def checked(*_: object) -> Metric:
        if (value := next(left)) is None:
            raise DivergedError("the loss is nan at step 1 of 2; lower train.lr")
        return Metric(value, "%", "max", 10)

    monkeypatch.setattr(tune, "_checked", checked)
    monkeypatch.setattr(tune, "_p_value", lambda *_: None)  # there are no answers to test


RUN_OFF_WON = [60.0, 61.0]
"""Scores of the run's own values and of those that were found."""


def forbid_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(*_: object, **__: object) -> None:
        raise AssertionError("something was tuned")

    monkeypatch.setattr(tune, "search", search)
