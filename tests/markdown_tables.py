"""The tables of a Markdown text, cell by cell."""

from __future__ import annotations

import re

# What lies between two pipes, where a backslash takes the next character with it.
CELL = re.compile(r"\|((?:\\.|[^|\\])+)")


def parsed(text: str) -> list[list[dict[str, str]]]:
    """The tables of a Markdown text, cells as source; every row must have as many cells as its header."""
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    tables = [[[cell.strip() for cell in CELL.findall(line)] for line in block] for block in blocks]
    return [[dict(zip(header, row, strict=True)) for row in rows] for header, _, *rows in tables]


def column(text: str, name: str) -> dict[str, str]:
    [table] = parsed(text)
    return {row["Method"]: row[name] for row in table}
