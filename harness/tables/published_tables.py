"""Published figures in every format of the leaderboard, as they are printed, and apart from ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from harness.tables.columns import MISSING, visible
from harness.tables.markup import escape, latex_symbols
from harness.tables.markup import latex as as_latex
from harness.tables.published import PublishedRow, PublishedTable

SAID = "As the papers print them: with other prompts, splits and hardware, one run each; never ranked with ours."


@dataclass(frozen=True)
class Shown:
    """One table as text: its heads and rows, in one sentence or two where it is from, and its notes."""

    title: str
    task: str
    name: str
    heads: list[str]
    rows: list[list[str]]
    origin: str
    notes: list[str]


def shown(table: PublishedTable, clean: Callable[[str], str]) -> Shown:
    """A table as text; `clean` makes each text of the file fit the format.

    Columns for trainable parameters and the language model are there where a row has them.
    """
    columns = [("Method", [clean(row.method) for row in table.rows])]
    if any(row.trainable_params is not None for row in table.rows):
        columns.append(("Trainable", [_params(row.trainable_params) for row in table.rows]))
    if any(row.backbone is not None for row in table.rows):
        columns.append(("LLM", [MISSING if row.backbone is None else clean(row.backbone) for row in table.rows]))
    shared = _shared_unit(table)
    for name, metric in table.metrics.items():
        head = metric.label if shared else f"{metric.label} ({metric.unit})"
        columns.append((clean(head), [_value(row.values[name]) for row in table.rows]))
    return Shown(
        title=clean(table.title),
        task=clean(table.task),
        name=clean(table.source.name),
        heads=[head for head, _ in columns],
        rows=[list(row) for row in zip(*(cells for _, cells in columns), strict=True)],
        origin=_origin(table, clean),
        notes=[
            *(f"All rows: {clean(note)}" for note in table.notes),
            *(f"Row {clean(_label(row))}: {clean(note)}" for row in table.rows for note in row.notes),
        ],
    )


def markdown(tables: Sequence[PublishedTable]) -> str:
    """GitHub Markdown: a heading, and below it every table with its source and notes."""
    return "\n\n".join(["## Published figures", SAID, *map(markdown_table, tables)]) + "\n"


def markdown_table(table: PublishedTable) -> str:
    """One table with heading, source and notes; no end of line."""
    text = shown(table, escape)
    notes = "\n".join(f"- {note}" for note in text.notes)
    return "\n\n".join(filter(None, [f"### {text.title}", _grid(text, "pipe"), text.origin, notes]))


def latex(tables: Sequence[PublishedTable]) -> str:
    r"""A LaTeX table (\usepackage{booktabs}) for each; the source is in its caption, notes stand below."""
    return "\n\n".join(["% Published figures", *map(_float, tables)]) + "\n"


def _float(table: PublishedTable) -> str:
    text = shown(table, visible)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{as_latex(f'Published: {text.title}. {text.origin} {SAID}')}}}",
        latex_symbols(_grid(text, "latex_booktabs")),
        *(rf"\par\footnotesize {as_latex(note)}" for note in text.notes),
        r"\end{table}",
    ]
    return "\n".join(lines)


def rows(tables: Sequence[PublishedTable]) -> list[dict[str, Any]]:
    """A flat row for each printed one, with status `published`; its figures are in columns of their own.

    Values are decimals with the digits that were printed.
    """
    return [
        {
            "table": f"Published: {table.title}",
            "task": table.task,
            "method": row.method,
            "status": "published",
            "published_source": _source(table, str),
            "published_ours": row.ours,
            "published_llm": row.backbone,
            "published_trainable_params": row.trainable_params,
            **{f"published_{name}": row.values[name] for name in table.metrics},
            "published_units": {name: metric.unit for name, metric in table.metrics.items()},
            "published_notes": [*table.notes, *row.notes],
        }
        for table in tables
        for row in table.rows
    ]


def _grid(text: Shown, tablefmt: str) -> str:
    from tabulate import tabulate

    return tabulate(
        text.rows,
        headers=text.heads,
        tablefmt=tablefmt,
        colalign=["left", *["right"] * (len(text.heads) - 1)],
        disable_numparse=True,
    )


def _source(table: PublishedTable, clean: Callable[[str], str]) -> str:
    source = table.source
    arxiv = f" (arXiv {source.arxiv})" if source.arxiv else ""
    return f"{clean(source.name)}{arxiv}, {clean(source.place)}"


def _origin(table: PublishedTable, clean: Callable[[str], str]) -> str:
    """The source in one line, and what holds for all values."""
    said = [f"Source: {_source(table, clean)}."]
    if unit := _shared_unit(table):
        said.append(f"Values in {clean(unit)}.")
    if any(value is None for row in table.rows for value in row.values.values()):
        said.append(f"{MISSING} means no value: not published, or not found.")
    return " ".join(said)


def _shared_unit(table: PublishedTable) -> str | None:
    units = {metric.unit for metric in table.metrics.values()}
    return units.pop() if len(units) == 1 else None


def _label(row: PublishedRow) -> str:
    return f"{row.method} {row.backbone}" if row.backbone else row.method


def _value(value: Decimal | None) -> str:
    return MISSING if value is None else f"{value:f}"


def _params(value: Decimal | None) -> str:
    """A count as papers print it: 4.0M for 4.0e6, 7B for 7e9."""
    if value is None:
        return MISSING
    exponent, suffix = (9, "B") if value >= 10**9 else (6, "M")
    return f"{value.scaleb(-exponent):f}{suffix}"
