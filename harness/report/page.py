"""The report's content as plain data: one section per comparison table, and the pages of all runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.record import Record
from harness.report import answers, browser, curves
from harness.report.bars import Chart, charts
from harness.report.colours import Look, look_of, looks
from harness.report.curves import Curve, Learning
from harness.report.evidence import Evidence, excuse, gather
from harness.report.grid import Grid, grid
from harness.report.matrix import Verdicts, verdicts
from harness.report.pareto import plots
from harness.report.runs import run_page
from harness.report.wording import listed, pairs
from harness.statistics.example_scores import Scores
from harness.store import Store
from harness.tables.columns import interval, on_one_line, visible, warnings
from harness.tables.overall import Overall, overall
from harness.tables.rows import Row, Table, tables

MOST_PAGES = 400
"""Runs with a page and a learning curve of their own: about 10 KB each."""


@dataclass(frozen=True)
class Absent:
    """A method without a result, and why."""

    label: str
    status: str
    seeds: str
    reason: str
    run: str


@dataclass(frozen=True)
class Section:
    """One comparison table with everything that belongs to it."""

    id: str
    title: str
    task: str
    warnings: list[str]
    hardware: str
    options: list[tuple[str, str]]
    grid: Grid
    absent: list[Absent]
    charts: list[Chart]
    tests: Verdicts
    plots: list[dict[str, Any]]
    learning: Learning
    examples: dict[str, Any] | None
    no_examples: str
    not_judged: str


@dataclass(frozen=True)
class Ranking:
    """Mean ranks over several tasks: heads, and a row for each method."""

    title: str
    heads: list[str]
    rows: list[tuple[str, Look, list[str]]]
    notes: list[str]


@dataclass(frozen=True)
class Page:
    """Everything that is shown. `runs` are those of the `count` runs that have a page of their own."""

    sections: list[Section]
    rankings: list[Ranking]
    tasks: list[str]
    looks: list[Look]
    runs: dict[str, dict[str, Any]]
    count: int
    curves: dict[str, Curve]
    statuses: list[tuple[str, int]]


@dataclass(frozen=True)
class _Source:
    """Where the sections come from: runs by id, the look of each method, and what the files tell.

    `curves` has the learning curves by run, `no_curve` why the other runs have none.
    """

    by_run: Mapping[str, Record]
    looks: Mapping[str, Look]
    store: Store | None
    data_roots: Sequence[Path]
    scores: Scores
    curves: Mapping[str, Curve]
    no_curve: Mapping[str, str]


def page(records: Sequence[Record], store: Store | None, data_roots: Sequence[Path]) -> Page:
    """The content for these records, whatever their order.

    Args:
        records: from one results folder.
        store: that folder, for the predictions and learning curves; None leaves out what needs them.
        data_roots: folders with the tasks' data, for prompts, right answers and pictures.
    """
    ordered = sorted(records, key=lambda record: record.run_id)
    by_run, scores = {record.run_id: record for record in ordered}, answers.scores(store)
    found = tables(ordered, scores)
    paged = _paged(ordered, found)
    learned, no_curve = curves.read(paged, store)
    source = _Source(
        by_run, looks(record.cell.method for record in ordered), store, data_roots, scores, learned, no_curve
    )
    sections = [_section(index, found, source) for index in range(len(found))]
    counts: dict[str, int] = {}
    for record in ordered:
        counts[record.status] = counts.get(record.status, 0) + 1
    return Page(
        sections,
        [_ranking(one, found, source) for one in overall(found, ordered)],
        sorted({section.task for section in sections}),
        sorted(source.looks.values(), key=lambda look: (look.baseline, look.name)),
        {record.run_id: {**run_page(record), **_learning(record, source)} for record in paged},
        len(ordered),
        learned,
        sorted(counts.items()),
    )


def _paged(ordered: Sequence[Record], found: Sequence[Table]) -> list[Record]:
    """The runs that get a page of their own: all, or of too many those that tables count, first seeds first."""
    if len(ordered) <= MOST_PAGES:
        return list(ordered)
    rows = [row for table in found for row in table.rows]
    counted = [row.runs[0] for row in rows] + [run for row in rows for run in row.runs[1:]]
    kept = frozenset(counted[:MOST_PAGES])
    return [record for record in ordered if record.run_id in kept]


def _ranking(found: Overall, all_tables: Sequence[Table], source: _Source) -> Ranking:
    chosen = [table for table in all_tables if table.title in found.tasks and table.backbone == found.backbone]
    look = {row.method: look_of(row, source.by_run, source.looks) for table in chosen for row in table.rows}
    rows = [
        (
            visible(method),
            look[method],
            [
                f"{mean.mean:.2f} {interval(mean.ci95)}".strip(),
                *(f"{rank:.2f}" for rank in found.ranks[method]),
            ],
        )
        for method, mean in found.mean.items()
    ]
    heads = ["Method", "Mean rank", *map(visible, found.tasks)]
    return Ranking(f"Overall · {visible(found.backbone)}", heads, rows, [on_one_line(note) for note in found.notes()])


def _section(index: int, found: Sequence[Table], source: _Source) -> Section:
    table = found[index]

    def look(row: Row) -> Look:
        return look_of(row, source.by_run, source.looks)

    evidence = gather(table, source.by_run, source.store, source.data_roots, source.scores)
    return Section(
        id=f"table-{index + 1}",
        title=visible(table.title),
        task=visible(table.task),
        warnings=warnings(table),
        hardware=listed(map(visible, table.hardware)),
        options=pairs(table.common),
        grid=grid(table, look),
        absent=[_absent(row) for row in table.absent],
        charts=charts(table, look),
        tests=verdicts(table, source.by_run, source.scores, look),
        plots=plots(table, look, source.by_run),
        learning=curves.of_table(table, look, source.curves, source.no_curve),
        examples=_examples(evidence, look, len(found)),
        no_examples=excuse(evidence.no_lines),
        not_judged=excuse(evidence.not_judged),
    )


def _learning(record: Record, source: _Source) -> dict[str, Any]:
    """The learning curve on the page of a run, or why there is none."""
    if found := source.curves.get(record.run_id):
        return {"learning": curves.of_run(record, found, source.looks[record.cell.method])}
    return {"no_learning": source.no_curve[record.run_id]}


def _absent(row: Row) -> Absent:
    return Absent(visible(row.method), row.status, listed(map(str, row.seeds)), visible(row.reason or ""), row.runs[-1])


def _examples(evidence: Evidence, look: Callable[[Row], Look], tables: int) -> dict[str, Any] | None:
    if not evidence.rows:
        return None
    rows = []
    for found in evidence.rows:
        style, lines = look(found.row), {line["id"]: line for line in found.lines}
        rows.append(browser.Answered(visible(found.row.method), style.css, style.name, found.seed, lines, found.scores))
    return browser.browser(rows, evidence.questions, tables=tables, pictures=browser.PICTURES // tables)
