"""The comparison table of the page: the columns of every format, with what to sort by and links to the runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from harness.report.colours import Look
from harness.tables import columns
from harness.tables.columns import Column, Kind, interval, legend, missing, on_one_line, visible
from harness.tables.rows import Row, Table


@dataclass(frozen=True)
class Cell:
    """A value as shown; `sort` is the full number, empty where there is none, which `reason` explains."""

    text: str
    sort: str
    best: bool
    kind: Kind
    interval: str
    reason: str


@dataclass(frozen=True)
class Line:
    """A row of the page's table."""

    label: str
    look: Look
    runs: list[tuple[int, str]]
    cells: list[Cell]


@dataclass(frozen=True)
class Grid:
    """A table as the page shows it."""

    columns: list[Column]
    lines: list[Line]
    missing: list[tuple[str, str, str]]
    legend: str


def grid(table: Table, look: Callable[[Row], Look]) -> Grid:
    """The rows of a comparison table in their order, primary score first."""
    # The other meters of a run stand on its page.
    found = [_visible(column) for column in columns.columns(table) if column.kind != "detail"]
    lines = [
        Line(
            visible(row.method),
            look(row),
            list(zip(row.seeds, row.runs, strict=True)),
            [_cell(column, index) for column in found],
        )
        for index, row in enumerate(table.rows)
    ]
    gone = [
        (on_one_line(names), on_one_line(methods), visible(reason))
        for names, methods, reason in missing(table, efficiency=True)
    ]
    return Grid(found, lines, gone, " ".join(map(on_one_line, legend(table))))


def _visible(column: Column) -> Column:
    return dataclasses.replace(column, title=visible(column.title), unit=visible(column.unit))


def _cell(column: Column, index: int) -> Cell:
    cell = column.cells[index]
    sort = "" if cell.value is None else repr(float(cell.value))
    return Cell(cell.text, sort, cell.best, column.kind, interval(cell.interval), visible(cell.reason))
