"""The files of published figures, and a small one of the test's own."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.tables.published import PublishedTable, read

FOLDER = Path(__file__).parents[3] / "results" / "published"
# What lies between two pipes, where a backslash takes the next character with it.
CELL = re.compile(r"\|((?:\\.|[^|\\])+)")
Reader = Callable[[str], PublishedTable]


def named(name: str) -> PublishedTable:
    """The table of one file of the repository."""
    return dict(zip(sorted(path.stem for path in FOLDER.glob("*.json")), read(FOLDER), strict=True))[name]


def grid(text: str) -> list[dict[str, str]]:
    """The rows of the one table of a Markdown text, cells as source; each has as many cells as the header."""
    [block] = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in CELL.findall(line)] for line in block]
    return [dict(zip(header, row, strict=True)) for row in rows]


def document(**fields: Any) -> dict[str, Any]:
    """A valid file; `row__values={}` sets a field of its only row; a field set to `...` is left out."""
    row: dict[str, Any] = {"method": "A", "ours": None, "backbone": "7B", "trainable_params": 4}
    row |= {"values": {"accuracy": 9}, "notes": []}
    source: dict[str, Any] = {"name": "Paper", "arxiv": "2410.17779", "place": "Table I"}
    whole: dict[str, Any] = {
        "schema": 1,
        "task": "scienceqa",
        "title": "Title",
        "source": source,
        "metrics": {"accuracy": {"label": "Avg", "unit": "%"}},
        "rows": [row],
        "notes": [],
    }
    for name, value in fields.items():
        part, _, key = name.rpartition("__")
        {"": whole, "row": row, "source": source}[part][key] = value
    return {name: value for name, value in whole.items() if value is not ...}
