"""Score against cost: the points of each plot, the Pareto front, and what hovering over a point tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from harness.nesting import part
from harness.record import MetricValue, Record
from harness.report.colours import Look
from harness.report.wording import listed, pairs, title
from harness.tables.columns import COSTS, Cost, interval, of_process, score, significant, visible
from harness.tables.rows import Row, Table

_AXES = {
    "trainable_params": "trainable parameters",
    "train_step_ms": "training step time",
    "train_peak_bytes": "training memory",
    "infer_ms_per_sample": "inference latency",
}

# Where the largest cost is so many times the smallest, a linear axis would press the small ones together.
_LOG_FROM = 10
_SETTING_LENGTH = 48


def front(points: Sequence[tuple[float, float]], *, goal: Literal["max", "min"] = "max") -> list[int]:
    """Indices of the (cost, score) points that no other beats, by rising cost.

    A point is beaten by one with no more cost and no worse score that is better in one of them; equal points stay.
    """
    sign = 1 if goal == "max" else -1
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -sign * points[index][1], index))
    kept: list[int] = []
    for index in order:
        last = points[kept[-1]] if kept else None
        if last is None or sign * points[index][1] > sign * last[1] or points[index] == last:
            kept.append(index)
    return kept


def plots(table: Table, look: Callable[[Row], Look], by_run: Mapping[str, Record]) -> list[dict[str, Any]]:
    """One plot per cost, as plain data for the page; where nothing can be drawn, `why` says so."""
    if not table.metrics:
        return []
    name, metric = next(iter(table.metrics.items()))
    return [_plot(table, cost, name, metric, look, by_run) for cost in COSTS if cost.key in _AXES]


def _plot(
    table: Table,
    cost: Cost,
    name: str,
    metric: MetricValue,
    look: Callable[[Row], Look],
    by_run: Mapping[str, Record],
) -> dict[str, Any]:
    drawn = [row for row in table.rows if row.values.get(name) is not None and row.values.get(cost.key) is not None]
    positive = [value for row in drawn if (value := _value(row, cost.key)) > 0]
    log = bool(positive) and max(positive) >= _LOG_FROM * min(positive)
    off_axis = [row for row in drawn if log and _value(row, cost.key) <= 0]
    shown = [row for row in drawn if row not in off_axis]
    ranked = [row for row in shown if not row.baseline]
    incomparable = _incomparable(table, cost)
    placed = [(_value(row, cost.key), _value(row, name)) for row in ranked]
    best = [] if incomparable else front(placed, goal=metric.goal)
    return {
        "title": f"{title(name)} against {_AXES[cost.key]}",
        "x": f"{cost.title} ({cost.unit})",
        "y": f"{title(name)} ({visible(metric.unit)})",
        "log": log,
        "points": [_point(row, cost, name, look(row), by_run) for row in shown],
        "front": [shown.index(ranked[index]) for index in best],
        "summary": f"{incomparable}{_summary([ranked[index] for index in best], off_axis)}",
        "why": "" if shown else _why(table, cost, name),
    }


def _point(row: Row, cost: Cost, name: str, look: Look, by_run: Mapping[str, Record]) -> dict[str, Any]:
    low, high = row.intervals.get(name) or (None, None)
    own = by_run[row.runs[0]].cell.options
    train = part(own, "train")
    rate = {"lr": train["lr"]} if "lr" in train else {}
    settings = pairs({**part(own, "method"), **rate})
    return {
        "x": _value(row, cost.key) * cost.scale,
        "y": _value(row, name),
        "low": low,
        "high": high,
        "label": visible(row.method),
        "look": look.css,
        "symbol": look.symbol,
        "method": look.name,
        "hover": [
            visible(row.method),
            f"{title(name)} {score(row.values[name])} {interval(row.intervals.get(name))}".strip(),
            f"{cost.title} {significant(_value(row, cost.key) * cost.scale)} {cost.unit}",
            f"seeds {listed(map(str, row.seeds))}",
            *(_shorten(f"{key} = {value}") for key, value in settings),
        ],
    }


def _value(row: Row, key: str) -> float:
    value = row.values[key]
    if value is None:
        raise ValueError(f"{row.method} has no {key}")
    return float(value)


def _shorten(text: str) -> str:
    return text if len(text) <= _SETTING_LENGTH else f"{text[:_SETTING_LENGTH]}…"


def _incomparable(table: Table, cost: Cost) -> str:
    """Why no front is drawn; empty where one is."""
    if cost.machine and len(table.hardware) > 1:
        return "No front: measured on different hardware."
    if of_process(table, cost):
        return "No front: on a CPU this is the whole process's memory, with what ran in it before."
    return ""


def _summary(best: Sequence[Row], off_axis: Sequence[Row]) -> str:
    """The plot in words: for readers who cannot see it."""
    said = f"On the front, by rising cost: {listed(visible(row.method) for row in best)}." if best else ""
    if off_axis:
        said += f" Not on the logarithmic axis: {listed(f'{visible(row.method)} (0)' for row in off_axis)}."
    return said


def _why(table: Table, cost: Cost, name: str) -> str:
    reasons = {row.reasons.get(name) or row.reasons.get(cost.key) or "no value" for row in table.rows}
    return f"Nothing to draw: {'; '.join(sorted(map(visible, reasons)))}." if reasons else "Nothing to draw."
