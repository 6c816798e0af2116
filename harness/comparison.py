"""`compare A B`: the paired test of two methods or runs, the options that differ, the examples that flipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.example_scores import Scores
from harness.paired import Comparison, Samples, compare
from harness.record import Record
from harness.settings import UsageError, suggest
from harness.tables import flatten, show, tables

_SHOWN = 5
Side = tuple[str, Sequence[Record]]
"""A name and its runs, one per seed."""


def report(a: str, b: str, records: Sequence[Record], scores: Scores) -> str:
    """One section for each task and backbone on which both have comparable runs.

    Args:
        a, b: a method's name or a run id.
        records: all of a results folder.
        scores: see `harness.example_scores.reader`.

    Raises:
        UsageError: an unknown name, or no comparable runs.
        Incomparable: runs without scores by example, of other examples, or of too few.
    """
    found = _pairs(a, b, records)
    return "\n\n".join(_section(title, one, other, scores) for title, one, other in found)


def _pairs(a: str, b: str, records: Sequence[Record]) -> list[tuple[str, Side, Side]]:
    done = {record.run_id: record for record in records if record.status == "ok"}
    for name in (a, b):
        if name not in done and name not in {record.cell.method for record in done.values()}:
            known = sorted({record.cell.method for record in done.values()})
            raise UsageError(f"no finished run or method {name!r} here; {suggest(name, known)}")
    if a in done and b in done:
        return [(f"{done[a].cell.task} · {done[a].cell.backbone}", (a, [done[a]]), (b, [done[b]]))]
    pairs: list[tuple[str, Side, Side]] = []
    for table in tables(records):
        sides = [_side(name, [row.runs for row in table.rows], done) for name in (a, b)]
        if sides[0] and sides[1]:
            pairs.append((table.title, (a, sides[0]), (b, sides[1])))
    if not pairs:
        raise UsageError(f"{a} and {b} have no comparable runs (same task, backbone, data and options) here")
    return pairs


def _side(name: str, rows: Sequence[Sequence[str]], done: Mapping[str, Record]) -> list[Record]:
    """The runs of a table's row that a name means; none where the table has no such row."""
    matching = [runs for runs in rows if name in runs or done[runs[0]].cell.method == name]
    if len(matching) > 1:
        first = ", ".join(runs[0] for runs in matching)
        raise UsageError(f"{name} was run with {len(matching)} settings; name a run of each instead: {first}")
    runs = [name] if matching and name in done else [run for runs in matching for run in runs]
    return [done[run] for run in runs]


def _section(title: str, a: Side, b: Side, scores: Scores) -> str:
    if a[1][0].cell.task != b[1][0].cell.task:
        raise UsageError(f"{a[0]} is a run of {a[1][0].cell.task}, {b[0]} of {b[1][0].cell.task}; compare one task")
    found = compare(a[1], b[1], Samples(scores))
    unit = next(iter(a[1][0].metrics.values())).unit
    primary = next(iter(a[1][0].metrics))
    lines = [
        f"## {title}: {a[0]} against {b[0]}",
        f"{primary}: {_difference(found, unit)}",
        _options(a, b),
        _flipped(a, b, scores),
    ]
    return "\n\n".join(line for line in lines if line)


def _difference(found: Comparison, unit: str) -> str:
    of = found.difference
    low, high = of.ci95
    seeds = f"seed{'s' if len(found.seeds) > 1 else ''} {', '.join(map(str, found.seeds))}"
    verdict = "cannot be told apart at 5 %" if found.p_value > 0.05 else "differ at 5 %"
    return (
        f"difference {of.difference:+.2f} {unit} [{low:+.2f}, {high:+.2f}], p = {found.p_value:.4g} "
        f"({found.test}, {of.n:,} pairs of {of.clusters:,} pictures or questions, {seeds}): they {verdict}."
    )


def _options(a: Side, b: Side) -> str:
    mine, other = (flatten(side[1][0].cell.options) for side in (a, b))
    odd = [name for name in sorted(set(mine) | set(other)) if mine.get(name) != other.get(name)]
    shown = [f"- {name}: {_value(mine, name)} against {_value(other, name)}" for name in odd]
    return "\n".join(["Options that differ:", "", *shown]) if shown else "No options differ."


def _value(options: Mapping[str, Any], name: str) -> str:
    return show(options[name]) if name in options else "none"


def _flipped(a: Side, b: Side, scores: Scores) -> str:
    """Examples of the first common run on which one does better than the other."""
    mine, other = scores(a[1][0]), scores(b[1][0])
    better = [id for id in sorted(mine) if mine[id].value > other[id].value]
    worse = [id for id in sorted(mine) if mine[id].value < other[id].value]
    return "\n".join(
        f"- {name} does better on {len(ids):,} of {len(mine):,}{_first(ids)}"
        for name, ids in ((a[0], better), (b[0], worse))
    )


def _first(ids: Sequence[str]) -> str:
    return f" (first: {', '.join(ids[:_SHOWN])})" if ids else ""
