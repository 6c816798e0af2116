"""The leaderboard as one HTML file to look at: it opens offline, loads nothing, and escapes all it shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.record import Record


def write(records: Iterable[Record], store_root: Path | None, out: Path, *, data_roots: Sequence[Path] = ()) -> None:
    """Write the report of some records to a file.

    Args:
        records: what to show; the same records in any order give the same bytes.
        store_root: the results folder they come from, for the predictions; None leaves out the parts made of these.
        out: the HTML file; an existing one is replaced.
        data_roots: folders with the tasks' data. Without them the examples have no prompts, right answers and pictures.

    Raises:
        OSError: the file cannot be written.
    """
    out.write_bytes(render(records, store_root, data_roots=data_roots).encode("utf-8"))


def render(records: Iterable[Record], store_root: Path | None, *, data_roots: Sequence[Path] = ()) -> str:
    """The report as text; see `write`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from harness.report import assets
    from harness.report.page import page
    from harness.store import Store

    content = page(list(records), Store(store_root) if store_root is not None else None, data_roots)
    scripts = [assets.plotly_script(), assets.own_script()]
    environment = Environment(
        loader=FileSystemLoader(assets.FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    data = {
        "runs": content.runs,
        "plots": {section.id: section.plots for section in content.sections},
        "examples": {section.id: section.examples for section in content.sections if section.examples},
    }
    return environment.get_template("page.html").render(
        page=content,
        styles=assets.styles(),
        scripts=scripts,
        policy=assets.policy(scripts),
        data=assets.data_block(data),
    )
