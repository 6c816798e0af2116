"""The leaderboard as one HTML file to look at: it opens offline, loads nothing, and escapes all it shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.record import Record

if TYPE_CHECKING:
    from harness.tables.published import PublishedTable

_SCRIPTS = ("theme", "grid", "labels", "figures", "plots", "curves", "examples", "runs", "filters")


def render(
    records: Iterable[Record],
    store_root: Path | None,
    *,
    data_roots: Sequence[Path] = (),
    published: Sequence[PublishedTable] = (),
) -> str:
    """The report of some records as the text of an HTML file.

    Args:
        records: what to show; the same records in any order give the same bytes.
        store_root: the results folder they come from, for predictions and curves; None leaves out what needs these.
        data_roots: folders with the tasks' data. Without them the examples have no prompts, right answers and pictures.
        published: the papers' tables, which stand apart, below ours.
    """
    from harness.collection import paused
    from harness.report import assets
    from harness.report.page import page
    from harness.store import Store
    from harness.tables.columns import visible
    from harness.tables.published_tables import SAID, shown

    with paused():
        content = page(list(records), Store(store_root) if store_root is not None else None, data_roots)
    data = {
        "runs": content.runs,
        "plots": {section.id: section.plots for section in content.sections},
        "learning": {section.id: section.learning.lines for section in content.sections},
        "curves": {run: dataclasses.asdict(curve) for run, curve in content.curves.items()},
        "examples": {section.id: section.examples for section in content.sections if section.examples},
    }
    return assets.filled(
        "page.html",
        _SCRIPTS,
        data,
        page=content,
        published=[shown(table, visible) for table in published],
        published_said=SAID,
    )
