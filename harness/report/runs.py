"""The page of one run: every option, score and meter, where it came from, and the command that reproduces it."""

from __future__ import annotations

import re
import shlex
import unicodedata
from typing import Any

from harness.record import Distribution, MetricValue, Record, Unavailable
from harness.report.wording import pairs, title
from harness.tables.columns import interval, score, visible

Rows = list[tuple[str, str]]


def run_page(record: Record) -> dict[str, Any]:
    """Plain data for the page: a heading, the command, and titled lists of names and values, all as text."""
    cell = record.cell
    about = [
        ("status", record.status),
        *([("reason", visible(record.reason))] if record.reason else []),
        ("method", visible(cell.method)),
        ("task", visible(cell.task)),
        ("backbone", visible(cell.backbone)),
        ("seed", str(cell.seed)),
    ]
    parts: list[tuple[str, Rows]] = [
        ("Run", about),
        ("Scores", [(title(name), _metric(metric)) for name, metric in record.metrics.items()]),
        ("Meters", [(name, _meter(meter)) for name, meter in record.meters.items()]),
        ("Options", pairs(cell.options)),
        ("Given by hand", pairs(cell.explicit)),
        ("Provenance", pairs({name: value for name, value in record.provenance.items() if name != "argv"})),
    ]
    return {
        "title": f"{visible(cell.method)} · {visible(cell.task)} · {visible(cell.backbone)} · seed {cell.seed}",
        "command": command(record),
        "sources": _sources(record.provenance.get("git")),
        "traceback": record.traceback or "",
        "parts": [[title, rows] for title, rows in parts if rows],
    }


def command(record: Record) -> str:
    """The command line of the run for a POSIX shell; empty where the record has none."""
    argv = record.provenance.get("argv")
    if not isinstance(argv, list) or not argv:
        return ""
    return " ".join(["vltune", *(shell_quote(str(word)) for word in argv)])


def _sources(git: Any) -> str:
    """Which sources ran, in words."""
    if not isinstance(git, dict) or not git.get("commit"):
        return ""
    changed = ", with changes that were not committed" if git.get("dirty") else ""
    return f"At commit {visible(git['commit'])}{changed}."


def shell_quote(word: str) -> str:
    """A word for bash that shows what it holds: control and invisible characters are written as escapes."""
    if not any(unicodedata.category(char)[0] == "C" or char in "\u2028\u2029" for char in word):
        return shlex.quote(word)
    escaped = re.sub(r"[\\']", r"\\\g<0>", word)
    return "$'" + "".join(char if char.isprintable() else _escape(char) for char in escaped) + "'"


def _escape(char: str) -> str:
    # Eight digits: with fewer, a following hexadecimal digit would be taken as part of the escape.
    return f"\\U{ord(char):08x}"


def _metric(metric: MetricValue) -> str:
    if metric.value is None:
        return f"– ({visible(metric.reason)})"
    return f"{score(metric.value)} {visible(metric.unit)} {interval(metric.ci95)} n={metric.n:,}".replace("  ", " ")


def _meter(meter: Any) -> str:
    if isinstance(meter, Unavailable):
        return f"– ({visible(meter.reason)})"
    if isinstance(meter, Distribution):
        spread = f"(20 % {_number(meter.p20)}, 80 % {_number(meter.p80)}, n={meter.n:,})"
        return f"{_number(meter.median)} {visible(meter.unit)} {spread}"
    return f"{_number(meter.value)} {visible(meter.unit)}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"
