"""`compare A B`: the paired test of two methods or runs, the options that differ, the examples that flipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.columns import points
from harness.example_scores import Scores
from harness.paired import Comparison, Samples, compare
from harness.record import Record
from harness.settings import UsageError, suggest
from harness.significance import ALPHA
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
    a, b = (_named(name, records) for name in (a, b))
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


def _named(name: str, records: Sequence[Record]) -> str:
    """A method as it is, a run's whole id for its beginning."""
    methods = sorted({record.cell.method for record in records if record.status == "ok"})
    if name in methods:
        return name
    runs = [record for record in records if record.run_id.startswith(name)]
    if len(runs) != 1:
        hint = f"{len(runs)} runs begin so; write more of it" if runs else suggest(name, methods)
        raise UsageError(f"no finished run or method {name!r} here; {hint}")
    if runs[0].status != "ok":
        raise UsageError(f"run {runs[0].run_id} is {runs[0].status}: {runs[0].reason}; compare finished runs")
    return runs[0].run_id


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
    samples = Samples(scores)
    found = compare(a[1], b[1], samples)
    unit = next(iter(a[1][0].metrics.values())).unit
    primary = next(iter(a[1][0].metrics))
    lines = [
        f"## {title}: {a[0]} against {b[0]}",
        f"{primary}: {_difference(found, unit)}",
        _options(a, b),
        _flipped(a, b, found, samples),
    ]
    return "\n\n".join(line for line in lines if line)


def _difference(found: Comparison, unit: str) -> str:
    of = found.difference
    low, high = of.ci95
    seeds = f"seed{'s' if len(found.a) > 1 else ''} {', '.join(str(run.cell.seed) for run in found.a)}"
    verdict = "cannot be told apart at 5 %" if found.p_value > ALPHA else "differ at 5 %"
    p = "p < 0.001" if found.p_value < 0.001 else f"p = {found.p_value:.3f}"
    return (
        f"difference {of.difference:+.2f} {points(unit)}, 95 % interval [{low:+.2f}, {high:+.2f}], {p} "
        f"({found.test}, {seeds}: {of.n:,} pairs of answers on {of.clusters:,} questions or pictures): they {verdict}."
    )


def _options(a: Side, b: Side) -> str:
    mine, other = (flatten(side[1][0].cell.options) for side in (a, b))
    odd = [name for name in sorted(set(mine) | set(other)) if mine.get(name) != other.get(name)]
    shown = [f"- {name}: {_value(mine, name)} against {_value(other, name)}" for name in odd]
    return "\n".join(["Options that differ:", "", *shown]) if shown else "No options differ."


def _value(options: Mapping[str, Any], name: str) -> str:
    return show(options[name]) if name in options else "no such option"


def _flipped(a: Side, b: Side, found: Comparison, samples: Samples) -> str:
    """Examples on which one does better than the other, in all the runs that were compared."""
    mine, other = samples.of(found.a), samples.of(found.b)
    named = [(id, run.cell.seed) for run, ids in zip(found.a, mine.ids, strict=True) for id in ids]
    pairs = list(zip(named, mine.values, other.values, strict=True))
    better = [name for name, x, y in pairs if x > y]
    worse = [name for name, x, y in pairs if x < y]
    return "\n".join(
        f"- {name} does better on {len(where):,} of {len(pairs):,}{_first(where, seeds=len(found.a))}"
        for name, where in ((a[0], better), (b[0], worse))
    )


def _first(where: Sequence[tuple[str, int]], *, seeds: int) -> str:
    shown = [id if seeds == 1 else f"{id} in seed {seed}" for id, seed in where[:_SHOWN]]
    return f" (first: {', '.join(shown)})" if shown else ""
