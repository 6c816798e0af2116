"""What all cells of a plan share, what is known of one before and after it is run, and what identifies it."""

from __future__ import annotations

import dataclasses
import select
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from harness.backbones.backbone import Backbone
from harness.measure import Outcome
from harness.parallel.ranks import ALONE, Ranks
from harness.plan import CellPlan, Plan
from harness.prepare import Overlong, TaskData
from harness.record import Cell, cell_key
from harness.resume.claims import Title
from harness.resume.stop import Stop
from harness.store import Store
from harness.tables.columns import visible
from tasks import ExampleScore


@dataclass(frozen=True)
class Bench:
    """What all cells of a plan share: the loaded backbone, the checked data and where records go.

    `title` is this process's claim to the cell that is run now; `ranks` are the processes that share each cell; `stop`
    knows whether the run is to leave; `validation` is what tuning is given, by task like `data`, nothing without
    `--tune`; `since` is when the command began: a cell that failed later is not run again by it.
    """

    plan: Plan
    model: Backbone
    data: Mapping[str, TaskData]
    weights_sha256: str | None
    load_wall_s: float
    store: Store
    title: Title | None = None
    ranks: Ranks = ALONE
    stop: Stop = field(default_factory=Stop)
    validation: Mapping[str, TaskData] = field(default_factory=dict)
    since: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class Ready:
    """A cell that was checked before any training: why to skip it, prompts that do not fit, the code as it was then."""

    skip: str | None
    overlong: Overlong | None
    code: dict[str, Any]


@dataclass(frozen=True)
class Ending:
    """How a cell ended; of one that is ok what it measured, and its primary score by example.

    `resumed` are the steps at which its training went on from a kept state.
    """

    status: Literal["ok", "failed", "skipped", "interrupted"]
    reason: str | None = None
    traceback: str | None = None
    outcome: Outcome | None = None
    parts: Mapping[str, ExampleScore] = field(default_factory=dict)
    resumed: tuple[int, ...] = ()


def identity(bench: Bench, cell: CellPlan) -> Cell:
    """The cell as its record names it: every option that can change a number."""
    plan, data = bench.plan, bench.data[cell.task_name]
    task = dataclasses.asdict(cell.task)
    task.pop("folder", None)  # where the data lie, like --data-root; what they are is told by their hash
    options = {
        "method": dataclasses.asdict(cell.method) | ({"init_sha256": cell.init.sha256} if cell.init else {}),
        "task": task,
        "train": dataclasses.asdict(cell.train),
        "run": {
            "recipe": plan.recipe,
            "protocol": plan.protocol,
            "weights": plan.backbone.weights,
            "weights_sha256": bench.weights_sha256,
            "precision": plan.precision,
            "device": plan.device.split(":")[0],
            "kernels": plan.kernels,
            "train_limit": plan.train_limit,
            "eval_limit": plan.eval_limit,
            **({} if plan.backbone.text_tokens is None else {"text_tokens": plan.backbone.text_tokens}),
            **({} if plan.backbone.image_size is None else {"image_size": plan.backbone.image_size}),
            **({} if plan.launch.alone else {"processes": plan.launch.count, "parallel": plan.launch.parallel}),
        },
        "data": {"sha256": data.sha256, "train": len(data.train), "eval": len(data.evaluation)},
        **({} if cell.tuned is None else {"tuning": cell.tuned.options}),
    }
    return Cell(
        method=cell.method_name,
        task=cell.task_name,
        backbone=bench.model.name,
        seed=cell.seed,
        options=options,
        explicit=dict(cell.explicit),
    )


def key(bench: Bench, cell: CellPlan) -> str:
    """The `cell_key` of a cell."""
    return cell_key(identity(bench, cell))


def title(bench: Bench, plan: CellPlan, number: str) -> str:
    """How the lines on a cell begin; `number` is its place in the matrix."""
    return f"{number} {plan.method_name} on {plan.task_name}, {bench.model.name}, seed {plan.seed}"


def say_elsewhere(label: str, holder: Mapping[str, Any]) -> None:
    """Say that another process runs the cell of this title."""
    who = visible(f"process {holder.get('pid')} on {holder.get('host')}")
    say(f"{label}: left to {who}, which runs it")


def say_taken_over(label: str) -> None:
    """Say that the record of the cell of this title is another process's to write."""
    say(f"{label}: not recorded: this machine was silent for long, and another process took the run over")


def is_unread() -> bool:
    """Whether whoever read what this process says has gone, as `| head` does; a pipe to a helper may break too."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    for stream in (1, 2):
        poll.register(stream, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def say(line: str) -> None:
    """Print a line at once, also into a file or pipe."""
    print(line, flush=True)
