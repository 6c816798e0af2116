"""Scores of a part of the examples, such as the questions with a picture."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from harness.examples import of_run
from harness.record import Record
from harness.settings import UsageError, suggest
from harness.statistics.example_scores import Scores
from tasks import ExampleScore


def only(scores: Scores, name: str, root: Path) -> Scores:
    """`scores` of those examples alone that the run's task counts under `name` (`tasks.Task.subsets`).

    What that gives raises UsageError where the task has no such part, or the folder `root` not the run's examples.
    """
    return functools.partial(_only, scores, name, root)


def _only(scores: Scores, name: str, root: Path, record: Record) -> Mapping[str, ExampleScore]:
    if not (found := scores(record)):
        return found
    known = of_run(record, [root], frozenset(found))
    if known is None:
        raise UsageError(f"--data-root {root}: has not the examples of run {record.run_id}; name the data that it used")
    task, examples = known
    subsets = task.subsets(examples)
    if not subsets:
        raise UsageError(f"--only {name}: {record.cell.task} tells no examples apart")
    if name not in subsets:
        raise UsageError(f"--only {name}: no such part of {record.cell.task}; {suggest(name, sorted(subsets))}")
    return {id: score for id, score in found.items() if id in subsets[name]}
