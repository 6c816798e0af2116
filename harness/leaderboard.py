"""Comparison tables from records: Markdown, CSV and JSON from the same rows, whatever the order of the records.

Only comparable runs share a table: same task, backbone and options but for the method's own. Of several runs
of one cell the latest `ok` one counts.
"""

from __future__ import annotations

import html
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from harness.example_scores import Scores, no_scores
from harness.record import METERS, Record
from harness.standing import Standing
from harness.tables import Row, Table, flatten, show, tables

if TYPE_CHECKING:
    import pandas as pd

_REASON_LENGTH = 300


@dataclass(frozen=True)
class _Column:
    """A cost column: what is shown of which value, and whether it depends on the machine."""

    key: str
    header: str
    scale: float = 1.0
    goal: Literal["max", "min"] = "min"
    machine: bool = True


_COSTS = (
    _Column("trainable_params", "Trainable M", 1e-6, machine=False),
    _Column("trainable_percent", "Trainable %", machine=False),
    _Column("adapter_bytes", "Saved MB", 1e-6, machine=False),
    _Column("train_step_ms", "Train step ms"),
    _Column("train_samples_per_s", "samples/s", goal="max"),
    _Column("train_peak_bytes", "Train memory MB", 1e-6),
    _Column("eval_peak_bytes", "Eval memory MB", 1e-6),
    _Column("infer_ms_per_sample", "Infer ms/sample b1"),
    _Column("infer_ms_per_sample_batched", "Infer ms/sample batched"),
    _Column("prefill_ms", "Prefill ms"),
    _Column("decode_ms_per_token", "Decode ms/token"),
)

_HEADERS = {
    "accuracy": "Acc.",
    **{f"accuracy_{name}": name.upper() for name in ("nat", "soc", "lan", "txt", "img", "no")},
    "accuracy_g1_6": "G1-6",
    "accuracy_g7_12": "G7-12",
    "cider": "CIDEr",
    "meteor": "METEOR",
    "rouge_l": "ROUGE-L",
    "spice": "SPICE",
    "mean_recall": "Mean recall",
    "tr_median_rank": "TR median rank",
    "ir_median_rank": "IR median rank",
}


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row per method within a table, seeds aggregated: scores are means, meters medians over seeds.

    A score `x` has `x_low`, `x_high` (95 % interval) and `x_n`; nulls are explained in the column `reasons`.
    A method without an `ok` run has a row too, with its status and reason.
    """
    import pandas as pd

    return pd.DataFrame(_flat_rows(records))


def render(
    records: Iterable[Record],
    *,
    format: Literal["md", "csv", "json"],
    task: str | None = None,
    scores: Scores = no_scores,
) -> str:
    """The leaderboard as text, byte-identical for any order of the same records.

    Args:
        records: in any order.
        format: md, csv or json.
        task: only the tables of this one.
        scores: reads what the predictions of a record scored, for the tests between methods.

    Raises:
        ValueError: unknown format.
    """
    if format == "md":
        return markdown(records, task=task, scores=scores)
    chosen = [record for record in records if task in (None, record.cell.task)]
    if format == "json":
        return json.dumps(_flat_rows(chosen), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if format != "csv":
        raise ValueError(f"format must be md, csv or json, got {format!r}")
    table = frame(chosen)
    for name in ("options", "reasons", "seeds", "runs"):
        if name in table:
            table[name] = [json.dumps(value, ensure_ascii=False) for value in table[name]]
    return str(table.to_csv(index=False, lineterminator="\n"))


def markdown(records: Iterable[Record], *, task: str | None = None, scores: Scores = no_scores) -> str:
    """GitHub Markdown: per table a heading, what its rows share, the table, and why values or methods are missing."""
    found = tables([record for record in records if task in (None, record.cell.task)], scores)
    return "\n\n".join(_section(table) for table in found) + "\n" if found else "No runs to compare.\n"


def _flat_rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    return [
        {
            "table": table.title,
            "task": table.task,
            "backbone": table.backbone,
            "method": row.method,
            "baseline": row.baseline,
            "status": row.status,
            "reason": row.reason,
            "seeds": row.seeds,
            "runs": row.runs,
            **{name: value for metric in table.metrics for name, value in _flat_metric(row, metric).items()},
            **{name: row.values.get(name) for name in ("trainable_percent", *METERS)},
            "reasons": row.reasons,
            "options": table.common,
        }
        for table in tables(records)
        for row in (*table.rows, *table.absent)
    ]


def _flat_metric(row: Row, metric: str) -> dict[str, float | int | None]:
    low, high = row.intervals.get(metric) or (None, None)
    n = row.counts.get(metric)
    return {metric: row.values.get(metric), f"{metric}_low": low, f"{metric}_high": high, f"{metric}_n": n}


def _section(table: Table) -> str:
    parts = [f"## {_escape(table.title)}", _note(table)]
    if table.rows:
        parts += [_grid(table), _legend(table), _tested(table)]
    if missing := _missing(table):
        parts.append("– means no value:\n\n" + "\n".join(missing))
    if table.absent:
        parts.append("Without a result:\n\n" + "\n".join(map(_excuse, table.absent)))
    return "\n\n".join(part for part in parts if part)


def _note(table: Table) -> str:
    """One paragraph: first what limits the numbers, loudly, then what all rows share."""
    common = flatten(table.common)
    train, evaluation = common.get("run.train_limit"), common.get("run.eval_limit")
    loud = []
    if train is not None or evaluation is not None:
        limits = f"{_limit(train)} training / {_limit(evaluation)} evaluation examples"
        loud.append(f"Limited data: {limits} (an image with all its captions is one).")
    if common.get("run.weights") == "random":
        loud.append("Random weights: costs only, accuracy is not ranked.")
    if _kind(table) == "cpu":
        loud.append("Measured on CPU.")
    if len(table.hardware) > 1:
        loud.append("Measured on different hardware or threads: times and memory are not comparable.")
    said = [_escape(f"Task {table.task}, backbone {table.backbone}.")]
    if table.hardware:
        said.append(_escape(f"Hardware: {'; '.join(table.hardware)}."))
    if common:
        said.append(f"Shared options: {', '.join(_escape(f'{name}={show(value)}') for name, value in common.items())}.")
    return " ".join([*(f"**{_escape(text)}**" for text in loud), *said])


def _limit(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "all"


def _grid(table: Table) -> str:
    from tabulate import tabulate

    columns = [("Method", [_escape(row.method) for row in table.rows])]
    for index, (name, metric) in enumerate(table.metrics.items()):
        shown = [_score(row.values.get(name)) for row in table.rows]
        cells = _embolden(table.rows, shown, metric.goal)
        if index == 0 and isinstance(table.standing, Standing):
            cells = [
                f"**{text}**" if row.method in table.standing.best else text
                for row, text in zip(table.rows, shown, strict=True)
            ]
        if index == 0:
            cells = [cell + _interval(row.intervals.get(name)) for cell, row in zip(cells, table.rows, strict=True)]
        columns.append(
            (f"{_escape(_header(name))} {_escape(metric.unit)}" if index == 0 else _escape(_header(name)), cells)
        )
        if index == 0:
            columns.append(("Seeds", [str(len(row.seeds)) for row in table.rows]))
    for cost in _COSTS:
        shown = [_cost(row.values[cost.key], cost.scale) for row in table.rows]
        comparable = not (cost.machine and len(table.hardware) > 1) and not _of_process(table, cost)
        columns.append((cost.header, _embolden(table.rows, shown, cost.goal) if comparable else shown))
    rows = list(zip(*(cells for _, cells in columns), strict=True))
    alignment = ["left", *["right"] * (len(columns) - 1)]
    headers = [header for header, _ in columns]
    return tabulate(rows, headers=headers, tablefmt="pipe", colalign=alignment, disable_numparse=True)


def _of_process(table: Table, cost: _Column) -> bool:
    """Whether a figure is the whole process's, which depends on what ran in it before."""
    return cost.key in ("train_peak_bytes", "eval_peak_bytes") and _kind(table) == "cpu"


def _kind(table: Table) -> Any:
    return flatten(table.common).get("run.device")


def _embolden(rows: Sequence[Row], shown: Sequence[str], goal: str) -> list[str]:
    """Mark the best of what is shown (equal as shown is a tie) if at least two methods, not baselines, have values."""
    numbers = [
        None if row.baseline or text == "–" else float(text.replace(",", ""))
        for row, text in zip(rows, shown, strict=True)
    ]
    eligible = [number for number in numbers if number is not None]
    if len(eligible) < 2:
        return list(shown)
    best = max(eligible) if goal == "max" else min(eligible)
    return [f"**{text}**" if number == best else text for text, number in zip(shown, numbers, strict=True)]


def _legend(table: Table) -> str:
    """Examples and unit behind each score, and what the interval means."""
    if not table.metrics:
        return ""
    scores = []
    for name, metric in table.metrics.items():
        counts = sorted({row.counts[name] for row in table.rows if name in row.counts})
        n = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        scores.append(f"{_header(name)} {n} ({metric.unit})")
    primary = next(iter(table.metrics))
    seeds = {len(row.seeds) > 1 for row in table.rows if row.intervals.get(primary)}
    meaning = {
        frozenset({False}): " In brackets the 95 % interval over examples (one seed).",
        frozenset({True}): " In brackets the 95 % t interval of the mean over seeds.",
        frozenset({False, True}): " In brackets the 95 % interval: over examples where there is one seed, "
        "the t interval of the mean over seeds where there are several.",
    }.get(frozenset(seeds), "")
    memory = " Memory is the whole process's, with what ran in it before." if _kind(table) == "cpu" else ""
    return (
        f"Examples (unit) of each score: {_escape(', '.join(scores))}.{meaning} Costs are medians over seeds.{memory}"
    )


def _tested(table: Table) -> str:
    """What bold type says of the first score."""
    if table.standing is None:
        return ""
    if isinstance(table.standing, str):
        return _escape(f"Bold is the best figure of a column; differences were not tested: {table.standing}.")
    name, metric = next(iter(table.metrics.items()))
    return (
        f"Bold in {_escape(_header(name))}: the best method, and those that cannot be told apart from it on these "
        f"examples ({table.standing.test}, Holm over all pairs, 5 %). A difference of about "
        f"{table.standing.detectable:.1f} {_escape(metric.unit)} would have shown with 80 % power. In other columns "
        "bold is the best figure."
    )


def _missing(table: Table) -> list[str]:
    """Why values are null, one line for all that share columns and reason."""
    headers = {**{name: _header(name) for name in table.metrics}, **{cost.key: cost.header for cost in _COSTS}}
    methods: dict[tuple[str, str], list[str]] = {}
    for row in table.rows:
        columns: dict[str, list[str]] = {}
        for name, header in headers.items():
            if row.values.get(name) is None:
                columns.setdefault(row.reasons.get(name, "not among the scores of this run"), []).append(header)
        for reason, names in columns.items():
            methods.setdefault((", ".join(names), reason), []).append(row.method)
    return [
        f"- {_escape(names)} ({_escape(', '.join(rows))}): {_escape(reason)}"
        for (names, reason), rows in methods.items()
    ]


def _excuse(row: Row) -> str:
    seeds = ", ".join(map(str, row.seeds))
    return f"- {_escape(row.method)}: {row.status} (seeds {seeds}): {_escape(row.reason or '')}"


def _header(metric: str) -> str:
    """A score as the field writes it; of other people's tasks its own name."""
    if metric in _HEADERS:
        return _HEADERS[metric]
    if recall := re.fullmatch(r"(tr|ir)_r(\d+)", metric):
        return f"{recall[1].upper()}@{recall[2]}"
    return f"BLEU-{metric[5:]}" if re.fullmatch(r"bleu_\d", metric) else metric


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}"


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" [{interval[0]:,.2f}, {interval[1]:,.2f}]"


def _cost(value: float | None, scale: float) -> str:
    """Three significant digits, all digits before the point."""
    if value is None:
        return "–"
    scaled = value * scale
    digits = 0 if scaled == 0 else min(max(2 - math.floor(math.log10(abs(scaled))), 0), 6)
    return f"{scaled:,.{digits}f}"


def _escape(text: str) -> str:
    """Text as itself in a Markdown table: no markup, HTML, new cell, new line or control character."""
    visible = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in text)
    short = " ".join(visible.split())
    if len(short) > _REASON_LENGTH:
        short = f"{short[:_REASON_LENGTH]}…"
    marked = re.sub(r"([\\`*\[\]|~$])", r"\\\1", html.escape(short, quote=False))
    # An underscore within a word is no markup; elsewhere it may be.
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", marked)
