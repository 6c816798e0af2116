"""One colour and one marker per method, the same in every table and plot of a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.record import Record
from harness.tables.columns import visible
from harness.tables.rows import BASELINES, Row

COLOURS = 8
"""How many colours the style sheet has for methods: --m0 to --m7."""

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "pentagon", "triangle-down")
_BASELINE_SYMBOLS = ("circle-open", "square-open", "diamond-open")


@dataclass(frozen=True)
class Look:
    """How a method looks: a class of the style sheet (a colour) and a plotly marker."""

    name: str
    css: str
    symbol: str
    baseline: bool


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """The look of every method by name: baselines are grey and hollow, methods after the alphabet, in colour."""
    names = sorted(set(methods))
    found = {}
    for index, name in enumerate(name for name in names if name not in BASELINES):
        found[name] = Look(visible(name), f"m{index % COLOURS}", _SYMBOLS[index % len(_SYMBOLS)], baseline=False)
    for index, name in enumerate(name for name in names if name in BASELINES):
        found[name] = Look(visible(name), f"b{index}", _BASELINE_SYMBOLS[index], baseline=True)
    return found


def look_of(row: Row, by_run: Mapping[str, Record], known: Mapping[str, Look]) -> Look:
    """The look of a row, whose label may name settings beside the method."""
    return known[by_run[row.runs[0]].cell.method]
