"""Learning curves: the training loss of each run by step, smoothed and thinned so that many runs fit one page."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.record import Record, Unavailable
from harness.report.answers import NO_FOLDER
from harness.report.colours import Look
from harness.report.evidence import excuse
from harness.store import Store, StoreError
from harness.tables.columns import visible
from harness.tables.rows import Row, Table

POINTS = 300
"""Points of one curve at most."""

# As for scores: larger numbers are no loss, and plots of them overflow.
_LARGEST = 1e12


_DASHES = ("", "dashed", "dotted", "dash-dotted", "long-dashed")
"""Of rows of one method, which share its colour; in the order in which the page's script has them."""


class NoCurveError(ValueError):
    """Why a run has no learning curve, in words for the reader of the page."""


@dataclass(frozen=True)
class Curve:
    """The loss at steps 1, 1 + `every`, ... and at the last of `steps`: as it was, and its running mean.

    Attributes:
        window: steps of the running mean, centred; fewer at both ends.
    """

    steps: int
    every: int
    window: int
    raw: list[float]
    smooth: list[float]


def curve(losses: Sequence[float]) -> Curve:
    """The curve of the loss of every step, at least one.

    The window is about a twentieth of all steps: batches differ far more than the loss moves in so many.
    """
    steps = len(losses)
    half = steps // 40
    every = max(1, math.ceil((steps - 1) / (POINTS - 1)))
    places = [*range(0, steps - 1, every), steps - 1]
    means = [statistics.fmean(losses[max(0, place - half) : place + half + 1]) for place in places]
    return Curve(steps, every, 2 * half + 1, [_short(losses[place]) for place in places], [_short(m) for m in means])


def read(records: Sequence[Record], store: Store | None) -> tuple[dict[str, Curve], dict[str, str]]:
    """The curve of every run by its id; of the others why they have none."""
    found, missing = dict[str, Curve](), dict[str, str]()
    for record in records:
        try:
            found[record.run_id] = curve(_losses(record, store))
        except NoCurveError as error:
            missing[record.run_id] = visible(error)
    return found, missing


def _losses(record: Record, store: Store | None) -> list[float]:
    """The loss of every step of a run.

    Raises:
        NoCurveError: it did not end or was not trained, nothing was saved, or the file cannot be used.
    """
    if record.status != "ok":
        raise NoCurveError(f"the run was {record.status}")
    if isinstance(pace := record.meters["train_step_ms"], Unavailable) and pace.reason == "not trained":
        raise NoCurveError(pace.reason)
    if record.samples is None:
        raise NoCurveError("no loss of each step was saved: the record is older (run again with --fresh)")
    if store is None:
        raise NoCurveError(NO_FOLDER)
    file = record.samples.file
    try:
        losses = (store.samples(record) or {}).get("train_loss")
    except StoreError as error:
        # The file's name is enough: the folders are those of whoever made the report.
        raise NoCurveError(str(error).replace(f"{store.folder(record)}/", "")) from None
    except (KeyError, TypeError):
        raise NoCurveError(f"{file} does not hold readings as a run writes them") from None
    if not losses:
        raise NoCurveError(f"{file} has no loss of each step")
    if not isinstance(losses, list) or not all(isinstance(x, int | float) and abs(x) <= _LARGEST for x in losses):
        raise NoCurveError(f"{file} has losses that no training gives")
    return losses


def of_run(record: Record, found: Curve, look: Look) -> dict[str, Any]:
    """Plain data for the chart on the page of a run."""
    faint = "every step" if found.every == 1 else f"every {_ordinal(found.every)} step"
    smoothed = f"The line is the running mean over {found.window} steps (fewer at both ends)"
    return {
        "summary": f"{summary(found)} {smoothed}; faint is {faint} as it was.",
        "line": _line(record.run_id, visible(record.cell.method), look, 0),
    }


@dataclass(frozen=True)
class Key:
    """One curve of a chart in words; `dash` is empty for a solid line."""

    look: Look
    label: str
    seed: int
    dash: str
    said: str


@dataclass(frozen=True)
class Learning:
    """The curves of one table, the first seed of each method: plain data, the same in words, and who has none, why."""

    lines: list[dict[str, Any]]
    legend: list[Key]
    missing: str


def of_table(
    table: Table, look: Callable[[Row], Look], found: Mapping[str, Curve], missing: Mapping[str, str]
) -> Learning:
    """The chart of a table's methods."""
    lines, legend, seen = [], [], Counter[str]()
    for row in table.rows:
        run, style, label = row.runs[0], look(row), visible(row.method)
        if run in found:
            lines.append(_line(run, label, style, seen[style.name]))
            dash = _DASHES[seen[style.name] % len(_DASHES)]
            legend.append(Key(style, label, row.seeds[0], dash, summary(found[run])))
            seen[style.name] += 1
    lacking = [(visible(row.method), missing[row.runs[0]]) for row in table.rows if row.runs[0] in missing]
    return Learning(lines, legend, excuse(lacking))


def _line(run: str, label: str, look: Look, number: int) -> dict[str, Any]:
    """One curve; rows of the same method share its colour and are told apart by the `number` of their dashes."""
    return {
        "run": run,
        "label": label,
        "method": look.name,
        "look": look.css,
        "symbol": look.symbol,
        "dash": number,
    }


def summary(found: Curve) -> str:
    """The smoothed curve in words: for readers who cannot see it."""
    if found.steps == 1:
        return f"Loss {_said(found.raw[0])} in the only step."
    lowest = min(range(len(found.smooth)), key=found.smooth.__getitem__)
    step = min(1 + lowest * found.every, found.steps)
    return (
        f"Loss {_said(found.smooth[0])} at the start, {_said(found.smooth[-1])} at the end of {found.steps:,} steps; "
        f"lowest {_said(found.smooth[lowest])} around step {step:,}."
    )


def _said(loss: float) -> str:
    return f"{loss:,.3g}" if abs(loss) < 1000 else f"{loss:,.0f}"


def _short(loss: float) -> float:
    return float(f"{loss:.4g}")


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 not in (11, 12, 13) else "th"
    return f"{number}{ending}"
