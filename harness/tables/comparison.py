"""`compare A B`: the paired test of two methods or runs, the options that differ, the examples that flipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.record import MetricValue, Record
from harness.settings import UsageError, suggest
from harness.statistics.example_scores import Scores
from harness.statistics.paired import Comparison, Incomparable, Samples, compare
from harness.statistics.significance import ALPHA
from harness.store import StoreError
from harness.tables.columns import on_one_line, points, visible
from harness.tables.rows import Table, flatten, score_of, show, tables

_SHOWN = 5
_Refusal = UsageError | Incomparable | StoreError


@dataclass(frozen=True)
class Side:
    """What is compared: a name, and its runs, one per seed."""

    name: str
    runs: Sequence[Record]


def report(a: str, b: str, records: Sequence[Record], scores: Scores, *, part: str | None = None) -> str:
    """One section for each task and backbone on which both have comparable runs.

    A section whose runs cannot be compared says why instead.

    Args:
        a, b: a method's name, a row's as tables have it, such as `blind (of=memvp)`, or a run id.
        records: all of a results folder.
        scores: see `harness.statistics.example_scores.reader`.
        part: of the examples, which `scores` is about; None for all.

    Raises:
        UsageError: an unknown name, or no comparable runs.
        Incomparable, StoreError: no section could be made, for want of scores by example, of the same examples or of
            enough of them.
    """
    done = {record.run_id: record for record in records if record.status == "ok"}
    found = tables(records)
    a, b = (_named(name, records, found) for name in (a, b))
    if a in done and b in done:
        title = _title(f"{done[a].cell.task} · {done[a].cell.backbone}", part)
        return _section(title, Side(a, [done[a]]), Side(b, [done[b]]), scores)
    sections, refused = list[str](), list[_Refusal]()
    for table in found:
        title = _title(table.title, part)
        try:
            one, other = (_side(name, table, done) for name in (a, b))
            if one.runs and other.runs:
                sections.append(_section(title, one, other, scores))
        except (UsageError, Incomparable, StoreError) as error:
            refused.append(error)
            sections.append(f"{_heading(title, a, b)}\n\nNot compared: {on_one_line(error)}.")
    if not sections:
        raise UsageError(f"{a} and {b} have no comparable runs (same task, backbone, data and options) here")
    if len(refused) == len(sections):
        raise refused[0]
    return "\n\n".join(sections)


def _title(table: str, part: str | None) -> str:
    return table if part is None else f"{table} · only {part}"


def _named(name: str, records: Sequence[Record], all_tables: Sequence[Table]) -> str:
    """A method or row as it is, a run's whole id for its beginning."""
    methods = {record.cell.method for record in records if record.status == "ok"}
    known = sorted(methods | {row.method for table in all_tables for row in table.rows})
    if name in known:
        return name
    found = begun(name, records)
    if len(found) != 1:
        hint = f"{len(found)} runs begin so; write more of it" if found else suggest(name, known)
        raise UsageError(f"no finished run or method {name!r} here; {hint}")
    if found[0].status != "ok":
        raise UsageError(f"run {found[0].run_id} is {found[0].status}: {found[0].reason}; compare finished runs")
    return found[0].run_id


def begun(run_id: str, records: Sequence[Record]) -> list[Record]:
    """The run with this id, or else those whose ids begin so."""
    exact = [record for record in records if record.run_id == run_id]
    return exact or [record for record in records if record.run_id.startswith(run_id)]


def _side(name: str, table: Table, done: Mapping[str, Record]) -> Side:
    """The runs of a table's row that a name means; none where the table has no such row."""
    rows = [row for row in table.rows if row.method == name] or [
        row for row in table.rows if name in row.runs or done[row.runs[0]].cell.method == name
    ]
    if len(rows) > 1:
        instead = ", ".join(f"{row.method!r} ({row.runs[0]})" for row in rows)
        raise UsageError(f"{name} was run with {len(rows)} settings; name a row or a run instead: {instead}")
    named = [name] if rows and name in done else [run for row in rows for run in row.runs]
    runs, primary = [done[run] for run in named], next(iter(table.metrics), "")
    # A seed that has no score takes no part, unless none has one: then that is what is to be said.
    return Side(name, [run for run in runs if score_of(run, primary) is not None] or runs)


def _section(title: str, a: Side, b: Side, scores: Scores) -> str:
    tasks = [side.runs[0].cell.task for side in (a, b)]
    if tasks[0] != tasks[1]:
        raise UsageError(f"{a.name} is a run of {tasks[0]}, {b.name} of {tasks[1]}; compare one task")
    samples = Samples(scores)
    found = compare(a.runs, b.runs, samples)
    primary, metric = next(iter(a.runs[0].metrics.items()))
    lines = [
        _heading(title, a.name, b.name),
        f"{visible(primary)}: {_difference(found, metric)}",
        _options(a, b),
        _flipped(a, b, found, metric),
    ]
    return "\n\n".join(line for line in lines if line)


def _heading(title: str, a: str, b: str) -> str:
    return f"## {visible(title)}: {visible(a)} against {visible(b)}"


def _difference(found: Comparison, metric: MetricValue) -> str:
    interval = ""
    if found.interval is not None:
        interval = f" 95 % bootstrap interval [{found.interval[0]:+.2f}, {found.interval[1]:+.2f}],"
    verdict = "cannot be told apart at 5 %" if found.p_value > ALPHA else "differ at 5 %"
    p = "p < 0.001" if found.p_value < 0.001 else f"p = {found.p_value:.3f}"
    pairs = f"{len(found.first.values):,} pairs of answers on {found.first.clusters:,} questions or pictures"
    return (
        f"difference {found.by:+.2f} {visible(points(metric.unit))},{interval} {p} "
        f"({found.test}, {_seeds(found)}: {pairs}): they {verdict}."
    )


def _seeds(found: Comparison) -> str:
    mine, other = (", ".join(str(run.cell.seed) for run in runs) for runs in (found.a, found.b))
    plural = "s" if len(found.a) > 1 or mine != other else ""
    return f"seed{plural} {mine}" if mine == other else f"seed{plural} {mine} against {other}"


def _options(a: Side, b: Side) -> str:
    mine, other = (flatten(side.runs[0].cell.options) for side in (a, b))
    odd = [name for name in sorted(set(mine) | set(other)) if mine.get(name) != other.get(name)]
    shown = [f"- {visible(name)}: {_value(mine, name)} against {_value(other, name)}" for name in odd]
    return "\n".join(["Options that differ:", "", *shown]) if shown else "No options differ."


def _value(options: Mapping[str, Any], name: str) -> str:
    return visible(show(options[name])) if name in options else "no such option"


def _flipped(a: Side, b: Side, found: Comparison, metric: MetricValue) -> str:
    """Examples on which one does better than the other, in all the runs that were compared."""
    named = [
        (visible(id), _seed(one, other))
        for one, other, ids in zip(found.a, found.b, found.first.ids, strict=True)
        for id in ids
    ]
    pairs = list(zip(named, found.first.values, found.second.values, strict=True))
    larger = [name for name, x, y in pairs if x > y]
    smaller = [name for name, x, y in pairs if x < y]
    better, worse = (larger, smaller) if metric.goal == "max" else (smaller, larger)
    return "\n".join(
        f"- {visible(name)} does better on {len(where):,} of {len(pairs):,}{_first(where, several=len(found.a) > 1)}"
        for name, where in ((a.name, better), (b.name, worse))
    )


def _seed(one: Record, other: Record) -> str:
    mine, its = one.cell.seed, other.cell.seed
    return f"seed {mine}" if mine == its else f"seed {mine} against {its}"


def _first(where: Sequence[tuple[str, str]], *, several: bool) -> str:
    shown = [f"{id} in {seed}" if several else id for id, seed in where[:_SHOWN]]
    return f" (first: {', '.join(shown)})" if shown else ""
