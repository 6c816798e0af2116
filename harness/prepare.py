"""Everything that can be refused before any hour of compute: data, pictures, prompt lengths, what a backbone lacks."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.backbones import cache_folder
from harness.backbones.backbone import Backbone
from harness.plan import CellPlan, Plan
from tasks import DataError, Example, Task


@dataclass(frozen=True)
class TaskData:
    """The examples of one task, checked, and a fingerprint of them.

    Where no cell trains on the task, `train` is what could be read of that split, if anything.
    """

    root: Path
    train: list[Example]
    evaluation: list[Example]
    sha256: str


def data_root(plan: Plan, task_name: str) -> Path:
    """The folder given by the user; else the procedural data, written into the cache if need be.

    Those are the data of the backbone `mini`, and good enough for random weights, with which only costs are measured.

    Raises:
        DataError: no folder was given and the backbone has no data of its own.
    """
    if plan.data_root is not None:
        return plan.data_root
    if (plan.backbone.name == "mini" and plan.backbone.llm is None) or plan.backbone.weights == "random":
        if (generate := _generator(task_name)) is None:
            raise DataError(f"{task_name} has no generated data: give --data-root DIR")
        return generate(cache_folder() / "data")
    raise DataError(f"{task_name} needs data for backbone {plan.backbone.name!r}: give --data-root DIR")


def _generator(task_name: str) -> Callable[[Path], Path] | None:
    """What writes the procedural data of a task; None for a task of another package, which has none."""
    if not task_name.isidentifier() or importlib.util.find_spec(f"tasks.mini.{task_name}") is None:
        return None
    ensure: Callable[[Path], Path] | None = getattr(importlib.import_module(f"tasks.mini.{task_name}"), "ensure", None)
    return ensure


def trains(plan: Plan, task_name: str) -> bool:
    """Whether any cell of the plan trains on a task."""
    return any(cell.method.trains and cell.train.steps != 0 for cell in plan.cells if cell.task_name == task_name)


def task_data(plan: Plan, task_name: str, task: Task) -> TaskData:
    """Read and check both splits of a task; `task.prepare` checks the pictures once the model's size is known.

    Where no cell trains, the training split may be missing or bad. It is read if it can be even so: the fingerprint
    is then that of runs which train on the same data, and all share a table.

    Raises:
        DataError: names the file, the field and the fix.
    """
    root = data_root(plan, task_name)
    limits = {"train_limit": plan.train_limit, "eval_limit": plan.eval_limit}
    train, evaluation = read_splits(task, root, **limits, needs_train=trains(plan, task_name))
    return TaskData(root, train, evaluation, fingerprint([*train, *evaluation]))


def read_splits(
    task: Task, root: Path, *, train_limit: int | None, eval_limit: int | None, needs_train: bool
) -> tuple[list[Example], list[Example]]:
    """The examples of training and of evaluation; none of training where they cannot be read and need not be.

    Raises:
        DataError: names the file, the field and the fix.
    """
    try:
        train = task.examples("train", root, limit=train_limit)
    except DataError:
        if needs_train:
            raise
        train = []
    return train, task.examples("val" if task.split == "val" else "test", root, limit=eval_limit)


def validation_data(plan: Plan, task: Task, data: TaskData) -> TaskData:
    """What tuning is given of a task: its training examples, and the validation split (up to `--eval-limit`) to score.

    Its fingerprint is that of the validation split alone.

    Raises:
        DataError: the data have no validation split, or it is as bad as in `task_data`.
    """
    validation = task.examples("val", data.root, limit=plan.eval_limit)
    return TaskData(data.root, data.train, validation, fingerprint(validation))


def fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 over the examples' fields and the bytes of their pictures, wherever the folder lies."""
    digest, pictures = hashlib.sha256(), functools.cache(_picture_sha256)
    for example in examples:
        fields = {name: value for name, value in vars(example).items() if name != "image"}
        digest.update(repr(sorted(fields.items())).encode("utf-8", "surrogatepass"))
        if example.image is not None:
            digest.update(pictures(example.image))
    return digest.hexdigest()


def _picture_sha256(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


FEWEST_TOKENS = 8
"""Of text, that a cut prompt must have: an end of a question at least."""


@dataclass(frozen=True)
class Overlong:
    """Prompts that do not fit the backbone's context beside what the method inserts."""

    train: int
    evaluation: int
    longest: int
    room: int
    first: tuple[str, ...]


def overlong(model: Backbone, task: Task, data: TaskData) -> Overlong:
    """Count them with the method attached; `first` names up to three."""
    counts: list[int] = []
    longest, first = 0, list[str]()
    for examples, train in ((data.train, True), (data.evaluation, False)):
        texts = task.texts(examples, train=train)
        behind = [answer for _, answer in texts] if train else task.longest_answers(examples)
        lengths = [model.text_length(prompt, answer) for (prompt, _), answer in zip(texts, behind, strict=True)]
        over = [example.id for example, length in zip(examples, lengths, strict=True) if length > model.room]
        counts.append(len(over))
        first += over[: 3 - len(first)]
        longest = max([longest, *lengths])
    return Overlong(counts[0], counts[1], longest, model.room, tuple(first))


def check_lengths(cell: CellPlan, model: Backbone, data: TaskData) -> Overlong:
    """Refuse prompts longer than the context, unless the task's option `overlong` says to cut them to what is left.

    Raises:
        DataError: how many, the longest, the first ids and the ways out; also where next to nothing would be left.
    """
    found = overlong(model, cell.task, data)
    count = found.train + found.evaluation
    if count and model.text_tokens is not None:
        raise DataError(
            f"--text-tokens {model.text_tokens}: {model.name} has room for {max(0, found.room)} tokens of text beside "
            f"what {cell.method_name} inserts; give fewer"
        )
    if count and cell.task.overlong == "error":
        raise DataError(
            f"{data.root}: {count} of {len(data.train) + len(data.evaluation)} prompts do not fit the context of "
            f"{model.name} beside {cell.method_name} (room for {found.room} tokens, longest {found.longest}, first: "
            f"{', '.join(found.first)}); use a backbone with a longer context or --set {cell.task_name}.overlong=cut"
        )
    if count and found.room < FEWEST_TOKENS:
        raise DataError(
            f"{model.name}: beside what {cell.method_name} inserts its context of {model.max_length} tokens has room "
            f"for {max(0, found.room)} of text, too few to cut prompts to; use fewer visual tokens or a backbone with "
            "a longer context"
        )
    return found
