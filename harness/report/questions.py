"""The examples behind the answers, read from the data folders that the report was given, if any."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tasks
from harness.record import Record
from tasks import DataError, Example, Task


@dataclass(frozen=True)
class Questions:
    """The evaluation examples of one task, with what the model was asked and should have said."""

    examples: Mapping[str, Example]
    prompts: Mapping[str, str]
    truths: Mapping[str, str]


def load(record: Record, roots: Sequence[Path], ids: frozenset[str]) -> Questions | None:
    """The examples with exactly these ids from the first folder that has them; None where none has."""
    if not roots:
        return None
    options = record.cell.options.get("task")
    run = record.cell.options.get("run")
    limit = run.get("eval_limit") if isinstance(run, dict) else None
    # Records come from anywhere: a task that is not installed, or has other options by now, has no examples.
    with contextlib.suppress(ValueError, TypeError):
        task = tasks.get(record.cell.task, **(options if isinstance(options, dict) else {}))
        for root in roots:
            with contextlib.suppress(DataError):
                examples = task.examples("val" if task.split == "val" else "test", root, limit=limit)
                if {example.id for example in examples} == ids:
                    return _questions(task, examples)
    return None


def _questions(task: Task, examples: Sequence[Example]) -> Questions:
    asked = [prompt for prompt, _ in task.texts(examples, train=False)]
    answers = [answer for _, answer in task.texts(examples, train=True)]
    return Questions(
        {example.id: example for example in examples},
        {example.id: prompt for example, prompt in zip(examples, asked, strict=True)},
        {example.id: answer.strip() for example, answer in zip(examples, answers, strict=True)},
    )
