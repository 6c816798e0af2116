"""The result of one benchmark: rows of rivals with their ratios, as JSON and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.bench.timing import Timing
from harness.record import Meter


class BenchError(RuntimeError):
    """An implementation that does not agree with the slow way: its speed means nothing."""


@dataclass(frozen=True)
class Row:
    """One implementation of a case. `of_roofline` is in per cent; None where no bound was computed."""

    name: str
    ms: Any
    peak_bytes: Any
    of_roofline: float | None = None


@dataclass(frozen=True)
class Target:
    """A goal of the project and what was measured; `met` is None where this machine cannot tell."""

    what: str
    goal: str
    measured: float | None
    met: bool | None


@dataclass(frozen=True)
class Case:
    """One table: what was timed, under which conditions, by whom, and what that says of the goals."""

    title: str
    conditions: Mapping[str, Any]
    rows: Sequence[Row]
    targets: Sequence[Target] = ()
    notes: Sequence[str] = ()
    work: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON's own types."""
        return asdict(self)


def rows(timings: Mapping[str, Timing], *, roofline_ms: float | None = None) -> list[Row]:
    """A row per timing, in their order."""
    return [
        Row(
            name,
            timing.ms.model_dump(),
            _meter(timing.peak_bytes),
            None if roofline_ms is None else 100 * roofline_ms / timing.ms.median,
        )
        for name, timing in timings.items()
    ]


def at_least(what: str, measured: float, goal: float, unit: str = "x") -> Target:
    """A goal that more is better for."""
    return Target(what, f"at least {goal:g} {unit}", measured, measured >= goal)


def below(what: str, measured: float, goal: float, unit: str) -> Target:
    """A goal that less is better for."""
    return Target(what, f"under {goal:g} {unit}", measured, measured < goal)


def _meter(meter: Meter) -> dict[str, Any]:
    return meter.model_dump(exclude_none=False)


def markdown(case: Case) -> str:
    """Tables of one case: the rivals, then the goals."""
    from tabulate import tabulate

    first = case.rows[0].ms["median"] if case.rows else None
    lines = [
        [
            row.name,
            f"{row.ms['median']:,.3g}" if row.ms["median"] < 1000 else f"{row.ms['median']:,.0f}",
            f"{row.ms['p20']:,.4g} - {row.ms['p80']:,.4g}",
            row.ms["n"],
            f"{first / row.ms['median']:.2f}",
            "–" if row.of_roofline is None else f"{row.of_roofline:.1f}",
            "–" if row.peak_bytes.get("value") is None else f"{row.peak_bytes['value'] / 1e6:,.1f}",
        ]
        for row in case.rows
    ]
    headers = ["", "median ms", "p20 - p80", "n", "times faster", "% of roofline", "peak MB"]
    conditions = ", ".join(f"{name} {value}" for name, value in case.conditions.items())
    parts = [f"### {case.title}", conditions]
    if lines:
        parts.append(tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True))
    if case.targets:
        met = {True: "yes", False: "no", None: "not measured here"}
        goals = [[t.what, t.goal, "–" if t.measured is None else f"{t.measured:.3g}", met[t.met]] for t in case.targets]
        parts.append(tabulate(goals, headers=["goal", "wanted", "measured", "met"], tablefmt="github"))
    return "\n\n".join([*parts, *[f"- {note}" for note in case.notes]])
