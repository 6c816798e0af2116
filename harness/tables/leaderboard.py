"""Comparison tables from records in several formats, from the same rows, whatever the order of the records.

Only comparable runs share a table: same task, backbone and options but for the method's own. Of several runs
of one cell the latest `ok` one counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal

from harness.collection import paused
from harness.record import METERS, Record
from harness.settings import suggest
from harness.statistics.example_scores import Scores, no_scores
from harness.tables.columns import (
    EFFICIENCY,
    MISSING,
    Cell,
    Column,
    columns,
    counts,
    heading,
    interval,
    legend,
    missing,
    on_one_line,
    partly,
    titles,
    visible,
    warnings,
)
from harness.tables.markup import escape, latex, latex_symbols
from harness.tables.overall import Overall, overall
from harness.tables.rows import Row, Table, flatten, show, tables

Format = Literal["md", "latex", "csv", "json"]


class UnknownColumn(ValueError):
    """A column that no table has."""


@dataclass(frozen=True)
class View:
    """Which tables, columns and order to show: `columns` by key in that order, `sort` by one of them, best first.

    Empty and None stand for all columns and for the order of the primary score, baselines below.
    """

    task: str | None = None
    columns: tuple[str, ...] = ()
    sort: str | None = None


def render(
    records: Iterable[Record],
    *,
    format: Format,
    view: View | None = None,
    scores: Scores = no_scores,
    published: Sequence[dict[str, Any]] = (),
) -> str:
    """The leaderboard as text, byte-identical for any order of the same records.

    Args:
        records: in any order.
        format: md (GitHub), latex (booktabs), csv or json.
        view: which tables, columns and order; csv and json hold every column.
        scores: reads what the predictions of a record scored, for the tests between methods.
        published: rows of `harness.tables.published_tables.rows`, which follow ours in csv and json. The mean ranks
            over tasks stand there between them, as rows of status `overall`.

    Raises:
        ValueError: unknown format.
        UnknownColumn: the view names a column that no table has.
    """
    view = view or View()
    chosen = [record for record in records if view.task in (None, record.cell.task)]
    with paused():
        found = _viewed(tables(chosen, scores), view)
    ranked = overall(found, chosen)
    if format == "md":
        sections = [_section(table, view.columns) for table in found]
        return _joined([*sections, *map(_ranking, ranked)], "No runs to compare.")
    if format == "latex":
        floats = [_float(table, view.columns) for table in found]
        return _joined([*floats, *map(_ranking_float, ranked)], "% No runs to compare.")
    rows = [*_flat_rows(found), *(row for one in ranked for row in _flat_ranks(one)), *published]
    if format == "json":
        # Published figures are decimals.
        return json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False, default=float) + "\n"
    if format != "csv":
        raise ValueError(f"format must be md, latex, csv or json, got {format!r}")
    return _csv(rows)


def markdown(records: Iterable[Record], *, scores: Scores = no_scores) -> str:
    """GitHub Markdown: per table a heading, what its rows share, the table, and why values or methods are missing."""
    return render(records, format="md", scores=scores)


def _joined(sections: Sequence[str], nothing: str) -> str:
    return ("\n\n".join(sections) if sections else nothing) + "\n"


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    import pandas as pd

    plain = [{name: _csv_value(value) for name, value in row.items()} for row in rows]
    # As objects, whole numbers stay whole beside a value that is not there.
    return str(pd.DataFrame(plain, dtype=object).to_csv(index=False, lineterminator="\n"))


def _csv_value(value: Any) -> Any:
    """Lists and objects as JSON; a decimal with the digits that were printed."""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return f"{value:f}" if isinstance(value, Decimal) else value


def _viewed(found: list[Table], view: View) -> list[Table]:
    """The tables in the view's order of rows, once its columns are known to exist."""
    known = titles(found)
    for key in (*view.columns, *([view.sort] if view.sort else [])):
        if found and key not in known:
            raise UnknownColumn(f"no table has a column {key!r}; {suggest(key, sorted(known), known)}")
    return [_sorted(table, view.sort) for table in found] if view.sort else found


def _sorted(table: Table, key: str) -> Table:
    column = next((column for column in columns(table) if column.key == key), None)
    if column is None:
        return table
    sign = -1 if column.goal == "max" else 1
    worth = {row.method: cell.value for row, cell in zip(table.rows, column.cells, strict=True)}

    def rank(row: Row) -> tuple[float, str]:
        value = worth[row.method]
        return (math.inf if value is None else sign * value, row.method)

    return replace(table, rows=sorted(table.rows, key=rank))


def _flat_rows(found: Iterable[Table]) -> list[dict[str, Any]]:
    return [
        {
            "table": table.title,
            "task": table.task,
            "backbone": table.backbone,
            "method": row.method,
            "settings": row.settings,
            "baseline": row.baseline,
            "status": row.status,
            "reason": row.reason,
            "seeds": row.seeds,
            "runs": row.runs,
            **{name: value for metric in table.metrics for name, value in _flat_metric(row, metric).items()},
            **{name: row.values.get(name) for name in ("trainable_percent", *METERS)},
            **{cost.key: row.values.get(cost.key) for cost in EFFICIENCY},
            "reasons": row.reasons | {name: partly(row, name) for name in row.partial},
            "own_options": row.own,
            "options": table.common,
        }
        for table in found
        for row in (*table.rows, *table.absent)
    ]


def _flat_ranks(found: Overall) -> list[dict[str, Any]]:
    """A row for each method's mean rank over several tasks."""
    bounds = {method: mean.ci95 or (None, None) for method, mean in found.mean.items()}
    return [
        {
            "table": f"Overall · {found.backbone}",
            "backbone": found.backbone,
            "method": method,
            "status": "overall",
            "seeds": found.seeds,
            "mean_rank": mean.mean,
            "mean_rank_low": bounds[method][0],
            "mean_rank_high": bounds[method][1],
            "ranks": dict(zip(found.tasks, found.ranks[method], strict=True)),
        }
        for method, mean in found.mean.items()
    ]


def _flat_metric(row: Row, metric: str) -> dict[str, float | int | None]:
    low, high = row.intervals.get(metric) or (None, None)
    n = row.counts.get(metric)
    return {metric: row.values.get(metric), f"{metric}_low": low, f"{metric}_high": high, f"{metric}_n": n}


def _float(table: Table, chosen: Sequence[str]) -> str:
    r"""A LaTeX table (\usepackage{booktabs}) with what limits its numbers in the caption; below, who has no result."""
    explained = [counts(table), *legend(table)] if table.metrics else []
    said = " ".join([f"{table.title}.", *warnings(table), *explained])
    excuses = [f"{visible(row.method)}: {_why(row, visible)}" for row in table.absent]
    return _captioned(said, _grid(table, chosen, _LATEX) if table.rows else "", excuses)


def _captioned(caption: str, grid: str, notes: Sequence[str] = ()) -> str:
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(on_one_line(caption))}}}",
        *filter(None, [grid]),
        *(rf"\par\footnotesize {latex(note)}" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines)


def _section(table: Table, chosen: Sequence[str]) -> str:
    parts = [f"## {escape(table.title)}", _note(table)]
    if table.rows:
        parts += [_grid(table, chosen, _MARKDOWN), _legend(table)]
    if gone := missing(table, chosen):
        lines = [f"- {escape(names)} ({escape(rows)}): {escape(reason)}" for names, rows, reason in gone]
        parts.append(f"{MISSING} means no value; columns without any are left out:\n\n" + "\n".join(lines))
    if table.absent:
        parts.append("Without a result:\n\n" + "\n".join(map(_excuse, table.absent)))
    parts += [_settings(table), _options(table)]
    return "\n\n".join(part for part in parts if part)


def _ranking(found: Overall) -> str:
    """The mean ranks of one backbone's methods over several tasks."""
    said = " ".join(map(escape, found.notes()))
    return "\n\n".join([f"## Overall · {escape(found.backbone)}", _ranks(found, _MARKDOWN), said])


def _ranking_float(found: Overall) -> str:
    return _captioned(" ".join([f"Overall · {found.backbone}.", *found.notes()]), _ranks(found, _LATEX))


def _ranks(found: Overall, form: _Form) -> str:
    named = [
        ("Method", list(map(form.escape, found.mean))),
        ("Mean rank", [f"{mean.mean:.2f} {interval(mean.ci95)}".strip() for mean in found.mean.values()]),
        *(
            (form.escape(title), [f"{found.ranks[method][place]:.2f}" for method in found.mean])
            for place, title in enumerate(found.tasks)
        ),
    ]
    return _tabulated(named, form)


def _note(table: Table) -> str:
    """One paragraph: first what limits the numbers, loudly, then what was run and where."""
    said = [escape(f"Task {table.task}, backbone {table.backbone}.")]
    if table.hardware:
        said.append(escape(f"Hardware: {'; '.join(table.hardware)}."))
    return " ".join([*(f"**{escape(text)}**" for text in warnings(table)), *said])


def _settings(table: Table) -> str:
    """What each row's own settings are, in one line each; rows without any are left out."""
    own = {row.method: flatten(row.own) for row in (*table.rows, *table.absent) if set(row.own) - {"lr"}}
    lines = [
        f"- {escape(method)}: {escape(', '.join(f'{name}={show(value)}' for name, value in fields.items()))}"
        for method, fields in own.items()
    ]
    return "\n\n".join(["Settings by method:", "\n".join(lines)]) if lines else ""


def _options(table: Table) -> str:
    """What all rows share; long, and so at the end."""
    shared = [escape(f"{name}={show(value)}") for name, value in flatten(table.common).items()]
    return f"Shared options: {', '.join(shared)}." if shared else ""


def _legend(table: Table) -> str:
    return " ".join(escape(text) for text in (counts(table), *legend(table))) if table.metrics else ""


def _excuse(row: Row) -> str:
    return f"- {escape(row.method)}: {_why(row, escape)}"


def _why(row: Row, clean: Callable[[str], str]) -> str:
    """How the runs of a method ended that have no result."""
    return f"{row.status} (seeds {', '.join(map(str, row.seeds))}): {clean(row.reason or '')}"


def _grid(table: Table, chosen: Sequence[str], form: _Form) -> str:
    """The table itself: method, primary score, number of seeds, and the other columns that have a value."""
    shown = _shown(table, chosen)
    named = [("Method", [form.escape(row.method) for row in table.rows])]
    for index, column in enumerate(shown):
        first = index == 0 and column.kind == "score"
        title = f"{column.title} {column.unit}" if first else heading(column)
        named.append((form.escape(title), [_text(cell, form, bracketed=first) for cell in column.cells]))
        if first:
            named.append(("Seeds", [_seeds(row, column.key) for row in table.rows]))
    return _tabulated(named, form)


def _seeds(row: Row, key: str) -> str:
    """How many seeds a row has, and of how many of them its score is."""
    count = row.seeds_with(key)
    return str(count) if count == len(row.seeds) else f"{count} of {len(row.seeds)}"


def _tabulated(named: Sequence[tuple[str, Sequence[str]]], form: _Form) -> str:
    """Columns with their heads as a grid."""
    from tabulate import tabulate

    text = tabulate(
        list(zip(*(cells for _, cells in named), strict=True)),
        headers=[title for title, _ in named],
        tablefmt=form.tabulate,
        colalign=["left", *["right"] * (len(named) - 1)],
        disable_numparse=True,
    )
    return form.finish(text)


def _shown(table: Table, chosen: Sequence[str]) -> list[Column]:
    every = columns(table)
    if chosen:
        found = [column for key in chosen for column in every if column.key == key]
        # Of tables of other tasks too, what the methods are compared by.
        return found if any(column.kind == "score" for column in found) else [every[0], *found]
    usual = [column for column in every if column.kind in ("score", "cost")]
    return [column for column in usual if column is every[0] or any(cell.value is not None for cell in column.cells)]


def _text(cell: Cell, form: _Form, *, bracketed: bool) -> str:
    text = form.bold(cell.text) if cell.best else cell.text
    return f"{text} {interval(cell.interval)}" if bracketed and cell.interval else text


@dataclass(frozen=True)
class _Form:
    """How a format writes a grid: tabulate's name for it, its escapes, bold type, and what is left to do at the end."""

    tabulate: str
    escape: Callable[[str], str]
    bold: Callable[[str], str]
    finish: Callable[[str], str]


def _latex_bold(text: str) -> str:
    """Bold type stands between private characters, which `visible` lets nobody else use, until tabulate has escaped."""
    return f"\ue000{text}\ue001"


def _latex_finish(text: str) -> str:
    return latex_symbols(text).replace("\ue000", r"\textbf{").replace("\ue001", "}")


_MARKDOWN = _Form("pipe", escape, lambda text: f"**{text}**", lambda text: text)
_LATEX = _Form("latex_booktabs", visible, _latex_bold, _latex_finish)
