"""The columns of a comparison table, for every format: what is shown, what is marked, and why values are missing."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.statistics.example_scores import FEWEST_GROUPS
from harness.statistics.standing import Standing
from harness.tables.rows import Row, Table, flatten

TINY_PARAMS = 20_000_000
"""Models with fewer parameters are labelled; with backbone `smol` they have some 157 million."""
MISSING = "–"
LONGEST_TEXT = 300
_NO_SCORE = "not among the scores of this run"
Kind = Literal["score", "cost", "efficiency", "detail"]
"""Of columns; tables have the last two when they are asked for."""


@dataclass(frozen=True)
class Cost:
    """A cost that tables show: `scale` turns the meter's unit into `unit`; `machine`: it depends on the machine."""

    key: str
    title: str
    unit: str
    scale: float = 1.0
    goal: Literal["max", "min"] = "min"
    machine: bool = True


COSTS = (
    Cost("trainable_params", "Trainable", "M", 1e-6, machine=False),
    Cost("trainable_percent", "Trainable", "%", machine=False),
    Cost("adapter_bytes", "Saved", "MB", 1e-6, machine=False),
    Cost("train_step_ms", "Train step", "ms"),
    Cost("train_samples_per_s", "Training", "samples/s", goal="max"),
    Cost("train_peak_bytes", "Train memory", "MB", 1e-6),
    Cost("train_rise_bytes", "Train memory rise", "MB", 1e-6),
    Cost("eval_peak_bytes", "Eval memory", "MB", 1e-6),
    Cost("eval_rise_bytes", "Eval memory rise", "MB", 1e-6),
    Cost("infer_ms_per_sample", "Infer, batch 1", "ms/sample"),
    Cost("infer_ms_per_sample_batched", "Infer, batched", "ms/sample"),
    Cost("prefill_ms", "Prefill", "ms"),
    Cost("decode_ms_per_token", "Decode", "ms/token"),
    Cost("train_flops_per_sample", "Training", "GFLOP/sample", 1e-9, machine=False),
    Cost("infer_flops_per_sample", "Infer", "GFLOP/sample", 1e-9, machine=False),
    Cost("energy_joules", "Energy", "J"),
)

EFFICIENCY = (
    Cost("score_per_million_params", "Score", "per M params", goal="max", machine=False),
    Cost("score_per_kilojoule", "Score", "per kJ", goal="max"),
    Cost("score_per_train_minute", "Score", "per min of training", goal="max"),
    Cost("train_tflops_per_s", "Training", "TFLOP/s", goal="max"),
    Cost("train_flops_utilisation", "Training", "% of the matmul rate", goal="max"),
)
"""Figures of `harness.tables.efficiency`, and how well the device is used; tables have them when they are asked for."""

DETAILS = (
    Cost("task_params", "Task's own", "M", 1e-6, machine=False),
    Cost("total_params", "Total", "M", 1e-6, machine=False),
    Cost("train_peak_reserved_bytes", "Train memory reserved", "MB", 1e-6),
    Cost("train_process_bytes", "Train memory of the process", "MB", 1e-6),
    Cost("eval_peak_reserved_bytes", "Eval memory reserved", "MB", 1e-6),
    Cost("largest_batch", "Largest batch", "samples", goal="max"),
    Cost("infer_ms_per_sample_largest_batch", "Infer, largest batch", "ms/sample"),
    Cost("load_wall_s", "Load", "s"),
    Cost("train_wall_s", "Training", "s"),
    Cost("eval_wall_s", "Evaluation", "s"),
)
"""The other meters; tables have them when they are asked for."""

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


@dataclass(frozen=True)
class Cell:
    """A value as shown, and in full (None where there is none, which `reason` explains)."""

    text: str
    value: float | None
    best: bool = False
    interval: tuple[float, float] | None = None
    reason: str = ""


@dataclass(frozen=True)
class Column:
    """One column; `cells` stand in the order of the table's rows."""

    key: str
    title: str
    unit: str
    kind: Kind
    goal: Literal["max", "min"]
    cells: list[Cell]


def columns(table: Table) -> list[Column]:
    """Every score, the primary one first, then every cost, then what scores cost, then the other meters."""
    kinds: tuple[tuple[Kind, tuple[Cost, ...]], ...] = (
        ("cost", COSTS),
        ("efficiency", EFFICIENCY),
        ("detail", DETAILS),
    )
    scores = [_score_column(table, name) for name in table.metrics]
    return [*scores, *(_cost_column(table, cost, kind) for kind, costs in kinds for cost in costs)]


def titles(found: Iterable[Table]) -> dict[str, str]:
    """Every column that one of some tables has, by key: as it is written above the table."""
    scores = {name: f"{header(name)} {metric.unit}" for table in found for name, metric in table.metrics.items()}
    return scores | {cost.key: f"{cost.title} {cost.unit}" for cost in (*COSTS, *EFFICIENCY, *DETAILS)}


def _score_column(table: Table, name: str) -> Column:
    metric = table.metrics[name]
    shown = [score(row.values.get(name)) for row in table.rows]
    best = [False] * len(shown) if _few(table, name) else _best(table.rows, shown, metric.goal)
    if isinstance(table.standing, Standing) and name == next(iter(table.metrics)):
        best = [row.method in table.standing.best for row in table.rows]
    cells = [
        _cell(row, name, text, mark, row.intervals.get(name))
        for row, text, mark in zip(table.rows, shown, best, strict=True)
    ]
    return Column(name, header(name), metric.unit, "score", metric.goal, cells)


def _few(table: Table, name: str) -> bool:
    """Whether a score other than the primary one is over too few examples for its differences to mean anything."""
    counts = [row.counts[name] for row in table.rows if row.values.get(name) is not None]
    return name != next(iter(table.metrics)) and bool(counts) and min(counts) < FEWEST_GROUPS


def _cost_column(table: Table, cost: Cost, kind: Kind) -> Column:
    values = [row.values.get(cost.key) for row in table.rows]
    shown = [significant(None if value is None else value * cost.scale) for value in values]
    incomparable = cost.machine and len(table.hardware) > 1
    unmarked = incomparable or of_process(table, cost)
    best = [False] * len(shown) if unmarked else _best(table.rows, shown, cost.goal)
    cells = [_cell(row, cost.key, text, mark) for row, text, mark in zip(table.rows, shown, best, strict=True)]
    return Column(cost.key, cost.title, cost.unit, kind, cost.goal, cells)


def _cell(row: Row, key: str, text: str, best: bool, interval: tuple[float, float] | None = None) -> Cell:
    value = row.values.get(key)
    return Cell(text, value, best, interval, row.reasons.get(key, _NO_SCORE) if value is None else "")


def _best(rows: Sequence[Row], shown: Sequence[str], goal: str) -> list[bool]:
    """The best of what is shown (equal as shown is a tie) if at least two methods, not baselines, have values."""
    numbers = [
        None if row.baseline or text == MISSING else float(text.replace(",", ""))
        for row, text in zip(rows, shown, strict=True)
    ]
    eligible = [number for number in numbers if number is not None]
    if len(eligible) < 2:
        return [False] * len(numbers)
    best = max(eligible) if goal == "max" else min(eligible)
    return [number == best for number in numbers]


def missing(table: Table, chosen: Sequence[str] = (), *, efficiency: bool = False) -> list[tuple[str, str, str]]:
    """(columns, methods, reason) of values that are not there, or of some seeds only; one for all that share these.

    Of the chosen columns by key; or of the usual ones, with those of efficiency if these are wanted.
    """
    found: dict[tuple[str, str], list[str]] = {}
    usual = ("score", "cost", *(["efficiency"] if efficiency else []))
    every = [column for column in columns(table) if (column.key in chosen if chosen else column.kind in usual)]
    for index, row in enumerate(table.rows):
        titles: dict[str, list[str]] = {}
        for column in every:
            if column.cells[index].value is None:
                titles.setdefault(column.cells[index].reason, []).append(heading(column))
            elif column.key in row.partial:
                titles.setdefault(partly(row, column.key), []).append(heading(column))
        for reason, names in titles.items():
            found.setdefault((", ".join(names), reason), []).append(row.method)
    return [(names, ", ".join(rows), reason) for (names, reason), rows in found.items()]


def partly(row: Row, key: str) -> str:
    """Of how many seeds a score or meter is that not all have, and why."""
    count, why = row.partial[key]
    return f"from {count} of {len(row.seeds)} seeds; no value of the others: {why}"


def warnings(table: Table) -> list[str]:
    """What limits the numbers of a table; to be shown loudly above it."""
    common = flatten(table.common)
    train, evaluation = common.get("run.train_limit"), common.get("run.eval_limit")
    loud = []
    if train is not None or evaluation is not None:
        limits = f"{_limit(train)} training / {_limit(evaluation)} evaluation examples"
        trained = common.get("data.train")
        captioned = isinstance(train, int) and isinstance(trained, int) and trained > train
        loud.append(f"Limited data: {limits}{' (an image with all its captions is one)' if captioned else ''}.")
    if common.get("run.weights") == "random":
        loud.append("Random weights: costs only, accuracy is not ranked.")
    if table.backbone == "mini":
        # A title names the folder of data that are not generated.
        pictures = "" if "(" in table.title.partition(" · ")[0] else ", generated pictures"
        loud.append(f"Tiny backbone{pictures}: what works here need not work at size.")
    elif _is_tiny(table):
        loud.append("Tiny backbone: what works here need not work at size.")
    if on_cpu(table):
        loud.append("Measured on CPU.")
    if len(table.hardware) > 1:
        loud.append("Measured on different hardware or threads: times and memory are not comparable.")
    return loud


def _is_tiny(table: Table) -> bool:
    totals = [total for row in table.rows if (total := row.values.get("total_params")) is not None]
    return bool(totals) and max(totals) < TINY_PARAMS


def legend(table: Table) -> list[str]:
    """What intervals, costs and marks mean, a sentence or two each."""
    if not table.metrics:
        return []
    primary = next(iter(table.metrics))
    seeds = frozenset(row.seeds_with(primary) > 1 for row in table.rows if row.intervals.get(primary))
    meaning = {
        frozenset({False}): "In brackets the 95 % interval over examples (one seed).",
        frozenset({True}): "In brackets the 95 % t interval of the mean over seeds.",
        frozenset({False, True}): "In brackets the 95 % interval: over examples where there is one seed, "
        "the t interval of the mean over seeds where there are several.",
    }.get(seeds)
    said = [*([meaning] if meaning else []), "Costs are medians over seeds."]
    if on_cpu(table):
        shared = ", including earlier runs of the same process; do not compare rows"
        said.append(f"Memory is the whole process's{'; each run had its own' if table.isolated else shared}.")
    if any(row.baseline for row in table.rows):
        said.append("Baselines are shown for orientation: not ranked, never bold.")
    if any(row.settings.startswith("tuned") for row in table.rows):
        said.append("Tuned: chosen on the validation split, from as many short trials for each method.")
    return [*said, *_marks(table)]


def _marks(table: Table) -> list[str]:
    if table.standing is None:
        return []
    few = any(_few(table, name) for name in table.metrics)
    but = f", but for scores over fewer than {FEWEST_GROUPS} examples" if few else ""
    if isinstance(table.standing, str):
        return [f"Bold is the best figure of a column{but}; differences were not tested: {table.standing}."]
    name, metric = next(iter(table.metrics.items()))
    tested = "tested " if table.standing.left_out else ""
    return [
        f"Bold in {header(name)}: the best {tested}method, and those that cannot be told apart from it on these "
        f"examples ({table.standing.test}, Holm over all pairs, 5 %).",
        *(f"{label} was not tested, and so has no mark: {why}." for label, why in table.standing.left_out.items()),
        f"Minimum detectable difference: {_detectable(table.standing.detectable, metric.unit)}.",
        f"In other columns bold is the best figure{but}.",
    ]


def _detectable(size: float | None, unit: str) -> str:
    if size is None:
        return "unknown, as methods score the same on every example"
    if math.isinf(size):
        return "none; on so few examples no difference would be found with 80 % power"
    return f"about {significant(size)} {points(unit)} (80 % power)"


def counts(table: Table) -> str:
    """Over how many examples each score is, and its unit."""
    said = []
    for name, metric in table.metrics.items():
        found = sorted({row.counts[name] for row in table.rows if name in row.counts})
        n = f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"
        said.append(f"{header(name)} {n} ({metric.unit})")
    return f"Examples (unit) of each score: {', '.join(said)}."


def on_cpu(table: Table) -> bool:
    """Whether the runs of a table were measured on a CPU."""
    return bool(flatten(table.common).get("run.device") == "cpu")


def of_process(table: Table, cost: Cost) -> bool:
    """Whether a figure is a process's that several runs share: on a CPU memory is."""
    return cost.key.endswith("_peak_bytes") and on_cpu(table) and not table.isolated


def points(unit: str) -> str:
    """The unit of a difference: of two percentages that is no percentage."""
    return "percentage points" if unit == "%" else unit


def heading(column: Column) -> str:
    """Title and unit; of a score the title alone, as the unit is said once."""
    return column.title if column.kind == "score" else f"{column.title} {column.unit}"


def header(metric: str) -> str:
    """A score as the field writes it; of other people's tasks its own name."""
    if metric in _HEADERS:
        return _HEADERS[metric]
    if recall := re.fullmatch(r"(tr|ir)_r(\d+)", metric):
        return f"{recall[1].upper()}@{recall[2]}"
    return f"BLEU-{metric[5:]}" if re.fullmatch(r"bleu_\d", metric) else metric


def score(value: float | None) -> str:
    """A score with two decimals."""
    return MISSING if value is None else f"{value:,.2f}"


def significant(value: float | None) -> str:
    """Three significant digits, all digits before the point."""
    if value is None:
        return MISSING
    digits = 0 if value == 0 else max(2 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{digits}f}" if digits <= 6 else f"{value:.3g}"


def interval(bounds: tuple[float, float] | None) -> str:
    """A 95 % interval, or nothing."""
    return "" if bounds is None else f"[{score(bounds[0])}, {score(bounds[1])}]"


def visible(text: Any) -> str:
    """One line of text, cut where it is long."""
    short = on_one_line(text)
    return f"{short[:LONGEST_TEXT]}…" if len(short) > LONGEST_TEXT else short


def on_one_line(text: Any) -> str:
    """Text without control, format and separator characters, which become spaces."""
    plain = str(text)
    if not (plain.isascii() and plain.isprintable()):
        plain = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in plain)
    return " ".join(plain.split())


def _limit(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "all"
