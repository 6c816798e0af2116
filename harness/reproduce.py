"""`reproduce RUN_ID`: run a recorded cell again from its own command line, and say what came out differently."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.nesting import part
from harness.record import Distribution, MetricValue, Record
from harness.settings import UsageError
from harness.tables.columns import visible
from harness.tables.comparison import begun
from harness.tables.rows import flatten, show

Parse = Callable[[Sequence[str]], argparse.Namespace]
_MACHINE = ("python", "platform", "cpu", "gpu", "device", "precision", "kernels")


def find(records: Sequence[Record], run_id: str) -> Record:
    """The record of a run id, which may be cut short.

    Raises:
        UsageError: no such run, several, or one that did not end.
    """
    matching = begun(run_id, records)
    if len(matching) != 1:
        many = f"{len(matching)} runs begin so; write more of it"
        raise UsageError(f"run {run_id!r}: {many if matching else 'no run of this results folder begins so'}")
    if matching[0].status != "ok":
        raise UsageError(
            f"run {run_id!r} is {matching[0].status}: {matching[0].reason}; only finished runs are compared"
        )
    return matching[0]


def arguments(record: Record, parse: Parse, *, results: Path) -> argparse.Namespace:
    """The command line of a record, narrowed to its one cell; relative paths in it count from the current folder.

    Raises:
        UsageError: the record holds no command line, or one that this version does not understand.
    """
    argv = record.provenance.get("argv")
    if not isinstance(argv, list) or argv[:1] != ["run"]:
        raise UsageError(f"run {record.run_id} holds no command line to run again (provenance.argv)")
    words = [str(word) for word in argv]
    args = parse(words)
    args.argv = tuple(words)
    args.methods, args.task, args.seeds = record.cell.method, record.cell.task, (record.cell.seed,)
    # What the command line set for other cells is no part of this one.
    args.set = [item for item in args.set if item.partition("=")[0].strip() in record.cell.explicit]
    args.init = [item for item in args.init if item.partition("=")[0] == record.cell.method]
    # What tuning chose is run with, not chosen again.
    chosen = part(part(record.provenance, "tuning"), "values")
    args.set += [f"{name}={value!r}" for name, value in chosen.items()]
    args.tune = args.tune_seconds = args.tune_share = None
    # It is one cell, run here by one process.
    args.gpus, args.workers, args.worker, args.parallel = (), None, False, None
    args.executor, args.ray_address, args.cpus_per_cell, args.memory_per_cell, args.shard = "local", *[None] * 4
    args.results, args.fresh, args.save, args.profile, args.tensorboard = results, True, False, False, False
    return args


def outcome(records: Sequence[Record], before: Record, known: Collection[str]) -> Record:
    """The run that `before` was run again as, among all records of the folder that it went to.

    Args:
        records: those of that folder.
        before: the run that was to be reproduced.
        known: ids of the runs that lay there before.

    Raises:
        UsageError: no such run was written.
    """
    cell = before.cell.method, before.cell.task, before.cell.seed
    new = [record for record in records if record.run_id not in known]
    found = [record for record in new if (record.cell.method, record.cell.task, record.cell.seed) == cell]
    if not found:
        raise UsageError(f"run {before.run_id} was not run again: another process may run that cell; try once it ends")
    return found[-1]


def report(before: Record, after: Record) -> str:
    """What differs in code, machine and options, then every score and step time of both."""
    from tabulate import tabulate

    rows = [
        [
            visible(name),
            _number(score.value),
            _number(again.value if (again := after.metrics.get(name)) else None),
            _mark(score, again),
        ]
        for name, score in before.metrics.items()
    ]
    rows.append(["train_step_ms", *(_number(_median(record, "train_step_ms")) for record in (before, after)), ""])
    table = tabulate(rows, headers=["", "recorded", "now", ""], tablefmt="github", disable_numparse=True)
    differing = [*_differing("option", before.cell.options, after.cell.options), *_provenance(before, after)]
    noted = "\n".join(["What differs:", "", *differing]) if differing else "Code, machine and options are the same."
    return "\n\n".join([f"## {before.run_id} and {after.run_id}", noted, table, _verdict(before, after)])


def same(before: Record, after: Record) -> bool:
    """Whether every score is the same to the last digit."""
    return {name: score.value for name, score in before.metrics.items()} == {
        name: score.value for name, score in after.metrics.items()
    }


def _verdict(before: Record, after: Record) -> str:
    files = before.predictions, after.predictions
    predicted = files[0] is not None and files[1] is not None and files[0].sha256 == files[1].sha256
    if not same(before, after):
        return f"Scores differ{', though every prediction is the same: was the record edited?' if predicted else '.'}"
    if predicted:
        return "Every score and every prediction is the same."
    return "Every score is the same; predictions differ, or are written in another form."


def _mark(score: MetricValue, again: MetricValue | None) -> str:
    return "" if again is not None and again.value == score.value else "differs"


def _provenance(before: Record, after: Record) -> list[str]:
    old, new = before.provenance, after.provenance
    found = [line for name in ("git", "sources", "packages") for line in _differing(name, old.get(name), new.get(name))]
    for name in _MACHINE:
        found += _differing(name, old.get(name), new.get(name))
    return found


def _differing(what: str, old: Any, new: Any) -> list[str]:
    mine, other = (flatten(value, what) if isinstance(value, dict) else {what: value} for value in (old, new))
    names = sorted(name for name in {*mine, *other} if mine.get(name) != other.get(name))
    return [f"- {visible(name)}: {_shown(mine, name)} recorded, {_shown(other, name)} now" for name in names]


def _shown(values: Mapping[str, Any], name: str) -> str:
    return visible(show(values[name])) if name in values else "nothing"


def _median(record: Record, name: str) -> float | None:
    meter = record.meters.get(name)
    return meter.median if isinstance(meter, Distribution) else None


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.6g}"
