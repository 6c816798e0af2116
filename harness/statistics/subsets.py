"""Scores of a part of the examples, such as the questions with a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import tasks
from harness import prepare
from harness.record import Record
from harness.settings import UsageError, suggest
from harness.statistics.example_scores import Scores
from tasks import ExampleScore

_Subsets = Mapping[str, frozenset[str]]


def only(name: str, *, scores: Scores, root: Path) -> Scores:
    """`scores` of those examples alone that a run's task counts under `name` (`tasks.Task.subsets`).

    `root` is the folder of the data that the runs used, as their fingerprints say. What is returned raises UsageError
    for other data, and where the task knows no such part or it is empty.
    """
    return _Part(name, scores, root)


@dataclass(frozen=True)
class _Part:
    name: str
    scores: Scores
    root: Path
    known: dict[tuple[str, str], _Subsets] = field(default_factory=dict)

    def __call__(self, record: Record) -> Mapping[str, ExampleScore]:
        if not (found := self.scores(record)):
            return found
        subsets = self._subsets(record)
        if not subsets:
            raise UsageError(f"--only {self.name}: {record.cell.task} has no parts")
        if self.name not in subsets:
            raise UsageError(
                f"--only {self.name}: no such part of {record.cell.task}; {suggest(self.name, sorted(subsets))}"
            )
        if not (kept := {id: score for id, score in found.items() if id in subsets[self.name]}):
            raise UsageError(f"--only {self.name}: none of the examples of run {record.run_id}; name another part")
        return kept

    def _subsets(self, record: Record) -> _Subsets:
        data = record.cell.options.get("data")
        sha256 = str(data.get("sha256")) if isinstance(data, dict) else ""
        key = (record.cell.task, sha256)
        if key not in self.known:
            self.known[key] = self._read(record, sha256)
        return self.known[key]

    def _read(self, record: Record, sha256: str) -> _Subsets:
        options = record.cell.options
        run, own = options.get("run"), options.get("task")
        told = run if isinstance(run, dict) else {}
        limits = {name: told.get(name) for name in ("train_limit", "eval_limit")}
        try:
            task = tasks.get(record.cell.task, **(own if isinstance(own, dict) else {}))
            train, evaluation = prepare.read_splits(task, self.root, **limits, needs_train=False)
        except (ValueError, TypeError) as error:  # a DataError too
            raise UsageError(f"run {record.run_id} cannot be split into parts: {error}") from None
        if prepare.fingerprint([*train, *evaluation]) != sha256:
            made = f"vltune data mini --task {record.cell.task} --out DIR"
            raise UsageError(
                f"--data-root {self.root}: not the data of run {record.run_id}; name what it used "
                f"(of a run without --data-root: what '{made}' writes)"
            )
        return task.subsets(evaluation)
