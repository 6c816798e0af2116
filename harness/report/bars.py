"""Bars per score (the categories of ScienceQA, CIDEr and its kin, recalls): one small chart for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.record import MetricValue
from harness.report.colours import Look
from harness.report.wording import title
from harness.tables.columns import interval, score, visible
from harness.tables.rows import Row, Table


@dataclass(frozen=True)
class Bar:
    """One method's value, and where bar and interval lie in per cent of the chart's width."""

    label: str
    look: Look
    text: str
    interval: str
    width: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Chart:
    """The bars of one score."""

    title: str
    unit: str
    note: str
    bars: list[Bar]


def charts(table: Table, look: Callable[[Row], Look]) -> list[Chart]:
    """A chart per score that at least one method has; percentages share the scale of 0 to 100."""
    found = []
    for name, metric in table.metrics.items():
        rows = [row for row in table.rows if row.values.get(name) is not None]
        if rows:
            found.append(_chart(name, metric, rows, look))
    return found


def _chart(name: str, metric: MetricValue, rows: list[Row], look: Callable[[Row], Look]) -> Chart:
    values = [row.values[name] or 0.0 for row in rows]
    upper = [bounds[1] for row in rows if (bounds := row.intervals.get(name))]
    full = 100.0 if metric.unit == "%" else max([*values, *upper, 0.0]) or 1.0
    counts = sorted({row.counts[name] for row in rows})
    n = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    lower = ", lower is better" if metric.goal == "min" else ""
    bars = []
    for row, value in zip(rows, values, strict=True):
        bounds = row.intervals.get(name)
        low, high = (_share(bounds[0], full), _share(bounds[1], full)) if bounds else (None, None)
        bars.append(
            Bar(
                visible(row.method),
                look(row),
                score(value),
                interval(bounds),
                _share(value, full),
                low,
                high,
            )
        )
    return Chart(title(name), visible(metric.unit), f"{n} examples{lower}", bars)


def _share(value: float, full: float) -> float:
    return round(min(max(100 * value / full, 0.0), 100.0), 2)
