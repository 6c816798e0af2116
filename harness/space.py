"""What `run --tune` searches: the fields that a method declares with `tune`, and the learning rate; and for how long.

Names are those of `--set`: `ademvl.alpha`, `train.lr`.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.nesting import part
from harness.settings import UsageError
from methods import Method, Search
from methods.blind import Blind

if TYPE_CHECKING:
    from harness.plan import CellPlan
    from harness.record import Record

SHARE = 0.05
"""Of the steps of a cell's run that each of its trials takes."""
LR, LR_FACTOR = "train.lr", 10.0
"""The learning rate is searched from a tenth of the recipe's to ten times it."""


@dataclass(frozen=True)
class Budget:
    """What every method gets on every task: trials of `share` of a run's steps; none is begun after `seconds`."""

    trials: int
    seconds: int | None
    share: float


@dataclass(frozen=True)
class Tuned:
    """What tuning left behind for a cell.

    Attributes:
        options: the budget, and what of (`of`: the key of the cell that was tuned), as the record's options hold it.
        values: the chosen ones by name; none where no trial gave a score.
        report: every trial, as the record's provenance holds it.
    """

    options: dict[str, Any]
    values: dict[str, float]
    report: dict[str, Any]


def recorded(records: Sequence[Record], options: Mapping[str, Any]) -> Tuned | None:
    """What the latest record of exactly this tuning says was chosen, however its own run ended."""
    for record in reversed(records):
        report = part(record.provenance, "tuning")
        values = part(report, "values")
        # Records come from anywhere: only numbers are settings.
        usable = values and all(type(value) in (int, float) for value in values.values())
        if usable and record.cell.options.get("tuning") == options:
            return Tuned(dict(options), values, report)
    return None


def budget(args: argparse.Namespace) -> Budget | None:
    """The budget of a command line; None without `--tune`.

    Raises:
        UsageError: a flag that means nothing without `--tune`, or Optuna is not installed.
    """
    if args.tune is None:
        for flag in ("tune_seconds", "tune_share"):
            if getattr(args, flag) is not None:
                raise UsageError(f"--{flag.replace('_', '-')}: goes with --tune N; add it or drop this")
        return None
    if importlib.util.find_spec("optuna") is None:
        raise UsageError("--tune needs Optuna, which is not installed: pip install 'vltune[tune]'")
    return Budget(args.tune, args.tune_seconds, SHARE if args.tune_share is None else args.tune_share)


def check(cells: Iterable[CellPlan]) -> None:
    """Refuse what would make tuning unfair.

    Raises:
        UsageError: a task is scored on the split that the choice is made on, or a method has nothing left to search.
    """
    for cell in cells:
        if cell.task.split == "val":
            raise UsageError(
                f"--tune chooses on the validation split, and {cell.task_name}.split=val would score the chosen on it "
                f"too; use --set {cell.task_name}.split=test or drop --tune"
            )
        if trains(cell) and not ranges(cell):
            raise UsageError(
                f"--tune: --set leaves nothing of {cell.method_name} to search; drop one, or leave it out of --methods"
            )


def trains(cell: CellPlan) -> bool:
    """Whether there is a training whose settings could be chosen."""
    return cell.method.trains and cell.train.steps != 0


def ranges(cell: CellPlan) -> dict[str, Search]:
    """What is searched, by name; nothing of what the command line or a checkpoint of `--init` says.

    A range is widened to the cell's own value, except that a 0 on a log scale stands: it switches something off.
    """
    if not trains(cell):
        return {}
    found = {}
    scope, method = _subject(cell)
    for field in dataclasses.fields(method) if cell.init is None else ():
        search, value = field.metadata.get("tune"), getattr(method, field.name)
        if search is not None and not (search.log and value <= 0):
            low, high = min(search.low, value), max(search.high, value)
            found[f"{scope}.{field.name}"] = Search(low, high, search.log)
    rate = cell.train.peak_lr
    found[LR] = Search(rate / LR_FACTOR, rate * LR_FACTOR, log=True)
    return {name: search for name, search in found.items() if name not in cell.explicit}


def own_values(cell: CellPlan) -> dict[str, float]:
    """The values of the cell itself, of what is searched."""
    _, method = _subject(cell)
    return {
        name: cell.train.peak_lr if name == LR else float(getattr(method, name.partition(".")[2]))
        for name in ranges(cell)
    }


def with_values(cell: CellPlan, values: Mapping[str, float]) -> CellPlan:
    """The cell with other values of what is searched."""
    fields: dict[str, Any] = {name.partition(".")[2]: value for name, value in values.items() if name != LR}
    method = cell.method
    if isinstance(method, Blind):
        fields = {"fields": tuple(sorted({**dict(method.fields), **fields}.items()))} if fields else {}
    return dataclasses.replace(
        cell,
        method=dataclasses.replace(method, **fields),
        train=dataclasses.replace(cell.train, lr=values.get(LR, cell.train.lr)),
    )


def _subject(cell: CellPlan) -> tuple[str, Method]:
    """The method that is searched and its name: of `blind` the one that it stands for."""
    if isinstance(cell.method, Blind):
        return cell.method.of, cell.method.inner()
    return cell.method_name, cell.method
