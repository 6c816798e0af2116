"""The evaluation examples of a recorded run, read again from a data folder."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import tasks
from harness.record import Record
from tasks import DataError, Example, Task


def of_run(record: Record, roots: Sequence[Path], ids: frozenset[str]) -> tuple[Task, list[Example]] | None:
    """The run's task and the examples with exactly these ids, from the first folder that has them.

    None where no folder has, and where the task is not installed or has other options by now: records come from
    anywhere.
    """
    options, run = record.cell.options.get("task"), record.cell.options.get("run")
    limit = run.get("eval_limit") if isinstance(run, dict) else None
    with contextlib.suppress(ValueError, TypeError):
        task = tasks.get(record.cell.task, **(options if isinstance(options, dict) else {}))
        for root in roots:
            with contextlib.suppress(DataError):
                examples = task.examples("val" if task.split == "val" else "test", root, limit=limit)
                if {example.id for example in examples} == ids:
                    return task, examples
    return None
