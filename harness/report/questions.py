"""The examples behind the answers, read from the data folders that the report was given, if any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.examples import of_run
from harness.record import Record
from tasks import Example, Task


@dataclass(frozen=True)
class Questions:
    """The evaluation examples of one task, with what the model was asked and should have said."""

    examples: Mapping[str, Example]
    prompts: Mapping[str, str]
    truths: Mapping[str, str]


def load(record: Record, roots: Sequence[Path], ids: frozenset[str]) -> Questions | None:
    """The examples with exactly these ids from the first folder that has them; None where none has."""
    found = of_run(record, roots, ids)
    return None if found is None else _questions(*found)


def _questions(task: Task, examples: Sequence[Example]) -> Questions:
    asked = [prompt for prompt, _ in task.texts(examples, train=False)]
    answers = [answer for _, answer in task.texts(examples, train=True)]
    return Questions(
        {example.id: example for example in examples},
        {example.id: prompt for example, prompt in zip(examples, asked, strict=True)},
        {example.id: answer.strip() for example, answer in zip(examples, answers, strict=True)},
    )
