"""Comparable rows from records: what shares a table, how seeds are summed up, what stands where a value is missing."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from harness.nesting import part
from harness.record import METERS, Cell, Distribution, MetricValue, Record, Scalar, Unavailable
from harness.statistics.example_scores import Scores, no_scores
from harness.statistics.intervals import seed_summary
from harness.statistics.standing import Standing, standing
from harness.tables.efficiency import LEAST, efficiency

BASELINES = frozenset({"frozen", "blind", "full"})
"""Shown for orientation, never marked as best."""

_RANDOM_WEIGHTS = "random weights: accuracy is not ranked"
_GENERATED = re.compile(r"mini-\w+-[0-9a-f]{12}")


@dataclass(frozen=True)
class Row:
    """One method (with one choice of its own settings) in one table, its seeds aggregated.

    `settings` says who chose these: `tuned, N trials`, `set by hand` or `defaults`; empty where nothing is trained.
    `own` are the settings: the method's fields, the learning rate and, if tuned, the budget.
    `partial` are the scores and meters that only some seeds have: how many, and why not the others.
    """

    method: str
    baseline: bool
    status: str
    reason: str | None
    seeds: list[int]
    runs: list[str]
    values: dict[str, float | None] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float] | None] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    settings: str = ""
    own: dict[str, Any] = field(default_factory=dict)
    partial: dict[str, tuple[int, str]] = field(default_factory=dict)

    def seeds_with(self, name: str) -> int:
        """How many seeds a score or meter that has a value is of."""
        return self.partial[name][0] if name in self.partial else len(self.seeds)


@dataclass(frozen=True)
class Table:
    """Comparable rows. `common` holds their shared options, `metrics` a sample of each score, the primary first.

    `isolated`: every run had a process of its own.

    `standing` says which methods cannot be told apart from the best, or why that was not tested; None where there are
    no two methods with a score.
    """

    title: str
    task: str
    backbone: str
    common: dict[str, Any]
    hardware: list[str]
    isolated: bool
    metrics: dict[str, MetricValue]
    rows: list[Row]
    absent: list[Row]
    standing: Standing | str | None = None


def tables(records: Iterable[Record], scores: Scores = no_scores) -> list[Table]:
    """One table per group of comparable records, in the order of task, backbone and options.

    Args:
        records: in any order.
        scores: reads what the predictions of a record scored, for the tests between methods.
    """
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in sorted(records, key=lambda record: record.run_id):
        key = (record.cell.task, record.cell.backbone, json.dumps(_common(record), sort_keys=True))
        groups.setdefault(key, []).append(record)
    titles = _titles(groups)
    return [_table(groups[key], titles[key], scores) for key in sorted(groups)]


def _common(record: Record) -> dict[str, Any]:
    """All options but the method's own, learning rate included; one kind of device is one, whatever its number."""
    options = {name: value for name, value in record.cell.options.items() if name not in ("method", "tuning")}
    if isinstance(train := options.get("train"), dict):
        options["train"] = {name: value for name, value in train.items() if name != "lr"}
    if isinstance(run := options.get("run"), dict) and "device" in run:
        options["run"] = {**run, "device": str(run["device"]).partition(":")[0]}
    return options


def _shown(records: Sequence[Record]) -> dict[str, Any]:
    """The shared options and the learning rate, by method where they differ."""
    common = _common(records[0])
    rates = {record.cell.method: _own(record).get("lr") for record in records}
    said = {method: show(rate) for method, rate in sorted(rates.items()) if rate is not None}
    if isinstance(common.get("train"), dict) and said:
        same = len(said) == len(rates) and len(set(said.values())) == 1
        common["train"]["lr"] = next(iter(rates.values())) if same else ", ".join(map(" ".join, said.items()))
    return common


def _titles(groups: Mapping[tuple[str, str, str], Sequence[Record]]) -> dict[tuple[str, str, str], str]:
    """Task and backbone, and where several tables share these, the options that tell them apart."""
    rivals: dict[tuple[str, str], dict[tuple[str, str, str], dict[str, Any]]] = {}
    for key in groups:
        rivals.setdefault(key[:2], {})[key] = flatten(json.loads(key[2]))
    titles = {}
    for (task, backbone), commons in rivals.items():
        telling = _telling(list(commons.values()))
        for key, common in commons.items():
            named = [f"{name}={show(common.get(name))}" for name in telling]
            titles[key] = " · ".join([f"{task}{_data_set(groups[key])}", backbone, *named])
    return titles


def _telling(options: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of flat options that do not have the same value in all of them."""
    names = sorted({name for one in options for name in one})
    return [name for name in names if any(one.get(name) != options[0].get(name) for one in options)]


def _data_set(records: Sequence[Record]) -> str:
    """In brackets the folder that the runs had their data from, by name; nothing for the generated data."""
    roots = {part(record.provenance, "data").get("root") for record in records if record.status == "ok"}
    names = {PurePath(root).name for root in roots if isinstance(root, str)}
    told = sorted(name for name in names - {"", records[0].cell.task} if not _GENERATED.fullmatch(name))
    return f" ({', '.join(told)})" if told else ""


def _table(records: Sequence[Record], title: str, scores: Scores) -> Table:
    """Records of one group, sorted by run id."""
    variants: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        settings = json.dumps(_own(record), sort_keys=True)
        variants.setdefault((record.cell.method, settings), []).append(record)
    done, absent, counted = dict[str, tuple[Row, list[Record]]](), [], []
    choosers = {key: _chooser(runs) for key, runs in variants.items()}
    labels = _labels(choosers, told=any("tuning" in record.cell.options for record in records))
    for key, runs in variants.items():
        chooser, label = choosers[key], labels[key]
        latest = {run.cell.seed: run for run in runs if run.status == "ok"}
        if latest:
            chosen = [latest[seed] for seed in sorted(latest)]
            counted += chosen
            done[label] = (_aggregate(label, chooser, chosen), chosen)
        if without := [run for run in runs if run.cell.seed not in latest]:
            absent.append(_absent(label, chooser, without))
    metrics: dict[str, MetricValue] = {}
    for record in counted:
        for name, metric in record.metrics.items():
            metrics.setdefault(name, metric)
    return Table(
        title=title,
        task=records[0].cell.task,
        backbone=records[0].cell.backbone,
        common=_shown(records),
        isolated=all(record.provenance.get("isolated") is True for record in counted),
        hardware=sorted({machine for record in counted if (machine := _machine(record))}),
        metrics=metrics,
        rows=sorted((row for row, _ in done.values()), key=lambda row: _rank(row, metrics)),
        absent=sorted(absent, key=lambda row: row.method),
        standing=_standing(done, metrics, scores),
    )


def _standing(
    done: Mapping[str, tuple[Row, list[Record]]], metrics: Mapping[str, MetricValue], scores: Scores
) -> Standing | str | None:
    """The tests between the methods of a table; baselines are shown for orientation and take no part."""
    primary = next(iter(metrics), "")
    ranked = {
        label: (value, runs)
        for label, (row, runs) in done.items()
        if not row.baseline and (value := row.values.get(primary)) is not None
    }
    if len(ranked) < 2:
        return None
    runs = {label: [run for run in runs if score_of(run, primary) is not None] for label, (_, runs) in ranked.items()}
    return standing(
        runs, {label: value for label, (value, _) in ranked.items()}, goal=metrics[primary].goal, scores=scores
    )


def _own(record: Record) -> dict[str, Any]:
    """What a method may choose for itself: its fields, its learning rate, and what the choice might cost."""
    options = record.cell.options
    train, budget = part(options, "train"), part(options, "tuning")
    rate = {"lr": train["lr"]} if "lr" in train else {}
    # Not what was tuned, which has another key for another first seed.
    spent = {"tuning": {name: budget.get(name) for name in ("trials", "seconds", "share")}} if budget else {}
    return {**part(options, "method"), **rate, **spent}


def _chooser(runs: Sequence[Record]) -> str:
    """See `Row.settings`."""
    budget = runs[-1].cell.options.get("tuning")
    if isinstance(budget, dict):
        return f"tuned, {budget.get('trials')} trials"
    trainable = runs[-1].meters.get("trainable_params")
    if isinstance(trainable, Scalar) and not trainable.value:
        return ""
    return "set by hand" if any(_own_fields(run.cell) for run in runs) else "defaults"


def _own_fields(cell: Cell) -> list[str]:
    """What the command line set of a method's own; of `blind` also that of the method it stands for."""
    shared = ("train", cell.task)
    return [name for name in cell.explicit if name == "train.lr" or ("." in name and name.split(".")[0] not in shared)]


def _labels(choosers: Mapping[tuple[str, str], str], *, told: bool) -> dict[tuple[str, str], str]:
    """The method's name, with those settings in which it differs from other rows of the same kind.

    Args:
        choosers: who chose the settings, by method and settings.
        told: name that too; rows are then of the same kind where it is the same.
    """
    kinds: dict[tuple[str, str], dict[tuple[str, str], dict[str, Any]]] = {}
    for key, chooser in choosers.items():
        own = flatten(json.loads(key[1]) or {})
        kinds.setdefault((key[0], chooser if told else ""), {})[key] = own
    labels = {}
    for (method, chooser), rows in kinds.items():
        telling = _telling(list(rows.values()))
        for key, own in rows.items():
            notes = [*([chooser] if chooser else []), *(f"{name}={show(own.get(name))}" for name in telling)]
            labels[key] = f"{method} ({', '.join(notes)})" if notes else method
    return labels


def _aggregate(label: str, chooser: str, runs: Sequence[Record]) -> Row:
    row = Row(
        method=label,
        baseline=runs[0].cell.method in BASELINES,
        status="ok",
        reason=None,
        seeds=[run.cell.seed for run in runs],
        runs=[run.run_id for run in runs],
        settings=chooser,
        own=_own(runs[0]),
    )
    for name in dict.fromkeys(name for run in runs for name in run.metrics):
        _add_metric(row, name, [run.metrics.get(name) for run in runs], _random_weights(runs[0]))
    for name in METERS:
        _add_meter(row, name, [run.meters[name] for run in runs])
    primary = next(iter(runs[0].metrics))
    derived = efficiency(row.values, row.reasons, primary=primary, goal=runs[0].metrics[primary].goal)
    row.values.update({name: None if isinstance(found, str) else found for name, found in derived.items()})
    row.reasons.update({name: found for name, found in derived.items() if isinstance(found, str)})
    trainable, total = row.values["trainable_params"], row.values["total_params"]
    row.values["trainable_percent"] = None
    if trainable is not None and total is not None and abs(total) >= LEAST:
        row.values["trainable_percent"] = 100 * trainable / total
    else:
        reasons = (row.reasons.get("trainable_params"), row.reasons.get("total_params"), "total_params is 0")
        row.reasons["trainable_percent"] = next(filter(None, reasons))
    return row


def _add_metric(row: Row, name: str, runs: Sequence[MetricValue | None], random_weights: bool) -> None:
    """Add a score; None stands for a run that does not have it."""
    scores = [score for score in runs if score is not None]
    scored = [(score, score.value) for score in scores if score.value is not None]
    row.counts[name] = (scored[0][0] if scored else scores[0]).n
    if random_weights or not scored:
        row.values[name] = None
        row.reasons[name] = _RANDOM_WEIGHTS if random_weights else scores[0].reason or ""
        return
    if len(scored) < len(runs):
        why = next((score.reason for score in scores if score.value is None), None)
        row.partial[name] = len(scored), why or "not among the scores of the others"
    summary = seed_summary([value for _, value in scored])
    row.values[name] = summary.mean
    # One seed says nothing about seeds: its interval is the record's own, over examples.
    interval = summary.ci95 if summary.n > 1 else scored[0][0].ci95
    if interval is not None and scores[0].unit == "%":
        # Student's t knows no bounds; a share has them.
        interval = max(interval[0], 0.0), min(interval[1], 100.0)
    row.intervals[name] = interval


def _add_meter(row: Row, name: str, meters: Sequence[Any]) -> None:
    read = [meter for meter in meters if not isinstance(meter, Unavailable)]
    values = [meter.median if isinstance(meter, Distribution) else meter.value for meter in read]
    row.values[name] = statistics.median(values) if values else None
    if not values:
        row.reasons[name] = meters[0].reason
    elif len(values) < len(meters):
        row.partial[name] = len(values), next(meter.reason for meter in meters if isinstance(meter, Unavailable))


def score_of(run: Record, name: str) -> float | None:
    """The value of a score, None where the run has none."""
    return run.metrics[name].value if name in run.metrics else None


def _absent(label: str, chooser: str, runs: Sequence[Record]) -> Row:
    last = runs[-1]
    return Row(
        method=label,
        baseline=last.cell.method in BASELINES,
        status=last.status,
        reason=last.reason,
        seeds=sorted({run.cell.seed for run in runs}),
        runs=[last.run_id],
        settings=chooser,
        own=_own(last),
    )


def _rank(row: Row, metrics: Mapping[str, MetricValue]) -> tuple[bool, float, str]:
    """Methods by the primary score, best first; baselines below; names decide ties."""
    primary = next(iter(metrics), "")
    value = row.values.get(primary)
    if row.baseline or value is None:
        return row.baseline, math.inf, row.method
    return False, -value if metrics[primary].goal == "max" else value, row.method


def _random_weights(record: Record) -> bool:
    run = record.cell.options.get("run")
    return isinstance(run, dict) and run.get("weights") == "random"


def _machine(record: Record) -> str | None:
    """What times and memory were measured on, as far as the record says."""
    gpu, cpu = record.provenance.get("gpu"), record.provenance.get("cpu")
    if isinstance(gpu, dict) and isinstance(gpu.get("names"), list) and gpu["names"]:
        return " + ".join(map(str, gpu["names"]))
    return f"{cpu.get('model')}, {cpu.get('threads')} threads" if isinstance(cpu, dict) else None


def flatten(options: Any, prefix: str = "") -> dict[str, Any]:
    """Nested options by dotted name."""
    if not isinstance(options, dict):
        return {prefix or "value": options}
    pairs = ((f"{prefix}.{name}" if prefix else name, value) for name, value in sorted(options.items()))
    return {
        path: leaf
        for name, value in pairs
        for path, leaf in (flatten(value, name) if isinstance(value, dict) and value else {name: value}).items()
    }


def show(value: Any) -> str:
    """An option's value as tables show it; long hashes are cut to twelve characters."""
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32,}", value):
        return value[:12]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
