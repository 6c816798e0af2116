"""`--profile`: a torch.profiler trace of a few steps of a cell, for TensorBoard, and the operators that take most time.

Profiled steps are slower than others. So a cell is profiled after everything is measured, on steps of their own, and
its record holds what it would hold without.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from accelerate import Accelerator
from tabulate import tabulate
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, schedule, supported_activities, tensorboard_trace_handler

from harness.backbones.backbone import Backbone
from harness.one_line import named
from harness.plan import CellPlan, Plan
from harness.prepare import TaskData
from harness.settings import UsageError
from harness.store import folder_name
from harness.train import total_steps, train, ways
from methods import Attachment
from tasks import Example, Task

SKIPPED, WARM_UP, RECORDED = 5, 2, 3
STEPS = SKIPPED + WARM_UP + RECORDED
FOLDER = "profiles"
"""Below the results; the folder that TensorBoard is given."""
TOP = 10
_LONGEST_NAME = 60


def check(device: str) -> None:
    """Refuse a device that this build of torch cannot profile.

    Raises:
        UsageError: says so.
    """
    if not supported_activities().issuperset(_activities(device)):
        kind = device.partition(":")[0]
        raise UsageError(f"--profile: this build of torch cannot profile {kind}; drop --profile or use --device cpu")


def report(
    model: Backbone,
    attachment: Attachment,
    cell: CellPlan,
    plan: Plan,
    data: TaskData,
    *,
    accelerator: Accelerator,
    label: str,
) -> None:
    """Profile a measured cell; print where the trace lies and which operators took most time.

    A cell that trains is trained on from where it stands, any other predicts. An error is a line on stderr and no more.
    """
    try:
        trains, folder, text = _take(model, attachment, cell, plan, data, accelerator=accelerator, label=label)
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not cost a finished run its record
        reason = named(error)
        print(f"{label}: no profile: {reason}", file=sys.stderr, flush=True)  # noqa: T201 - beside `workbench.say`
    else:
        what = "training steps" if trains else "batches of evaluation"
        logdir = shlex.quote(str(plan.results / FOLDER))
        said = f"{label}: profile of {RECORDED} {what} -> {folder} (to see it: tensorboard --logdir {logdir})"
        print(f"{said}\n\n{text}\n", flush=True)  # noqa: T201 - beside `workbench.say`
    gc.collect()  # the profiler's events, of hundreds of MB, refer to each other


def _take(
    model: Backbone,
    attachment: Attachment,
    cell: CellPlan,
    plan: Plan,
    data: TaskData,
    *,
    accelerator: Accelerator,
    label: str,
) -> tuple[bool, Path, str]:
    """Write a trace; whether it is of training, its folder and the table."""
    trains = cell.method.trains and total_steps(len(data.train), cell.train) > 0
    names = map(folder_name, (model.name, cell.task_name, cell.method_name))
    folder = plan.results.joinpath(FOLDER, *names, f"seed{cell.seed}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    # The optimiser of the run, which is of no more use, would lie in memory beside the new one.
    accelerator.free_memory()
    with _profiler(plan.device, folder, "train" if trains else "evaluate") as profiler:
        if trains:
            _train(model, attachment, cell, data, accelerator=accelerator, profiler=profiler, label=label)
        else:
            batches = _batches(data.evaluation, cell.train.eval_batch_size)
            _predict(model, cell.task, batches, accelerator=accelerator, profiler=profiler)
    return trains, folder, table(profiler.key_averages())


def table(averages: Iterable[FunctionEventAvg]) -> str:
    """The operators with most time of their own, on the GPU if they use one: ms, share and calls of a step.

    Labelled stretches of code, such as a whole step, are no operators. Time on a GPU counts for the operator that asked
    for it.
    """
    operators = {str(e.key): e for e in averages if e.device_type.name == "CPU" and not e.is_user_annotation}
    times = {"CPU": {name: float(e.self_cpu_time_total) for name, e in operators.items()}}
    if any(e.self_device_time_total for e in operators.values()):
        times = {"GPU": {name: float(e.self_device_time_total) for name, e in operators.items()}, **times}
    leading = next(iter(times.values()))
    rows = [
        [_short(name), *(text for own in times.values() for text in _cost(own, name)), f"{e.count / RECORDED:.4g}"]
        for name, e in sorted(operators.items(), key=lambda item: (-leading[item[0]], item[0]))[:TOP]
    ]
    headers = ["Operator", *(text for unit in times for text in (f"Self {unit} ms", "%")), "Calls"]
    alignment = ("left", *["right"] * (len(headers) - 1))
    return tabulate(rows, headers, tablefmt="simple", colalign=alignment, disable_numparse=True)


def _cost(own_us: Mapping[str, float], name: str) -> tuple[str, str]:
    return f"{own_us[name] / RECORDED / 1e3:.3f}", f"{100 * own_us[name] / max(sum(own_us.values()), 1e-9):.1f}"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _activities(device: str) -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.startswith("cuda") else [])]


def _profiler(device: str, folder: Path, worker: str) -> torch.profiler.profile:
    """One that writes a single trace, after `STEPS` steps."""
    return torch.profiler.profile(
        activities=_activities(device),
        schedule=schedule(wait=SKIPPED, warmup=WARM_UP, active=RECORDED, repeat=1),
        on_trace_ready=tensorboard_trace_handler(str(folder), worker_name=worker, use_gzip=True),
    )


def _batches(examples: Sequence[Example], size: int) -> list[Sequence[Example]]:
    """As many batches as are profiled, over again where there are too few examples."""
    once = [examples[start : start + size] for start in range(0, len(examples), size)]
    return list(itertools.islice(itertools.cycle(once), STEPS))


def _train(
    model: Backbone,
    attachment: Attachment,
    cell: CellPlan,
    data: TaskData,
    *,
    accelerator: Accelerator,
    profiler: torch.profiler.profile,
    label: str,
) -> None:
    """Train as `measure` does.

    On no more examples than the skipped steps see: the others then know the features of their pictures, as do most
    steps of a training.
    """
    examples = data.train[: SKIPPED * cell.train.batch_size]
    with ways(model, cell.train, examples):
        train(
            model,
            attachment,
            cell.task,
            examples,
            dataclasses.replace(cell.train, steps=STEPS, epochs=None),
            accelerator=accelerator,
            seed=cell.seed,
            label=f"{label}: profile",
            after_step=lambda _: profiler.step(),
        )


@torch.inference_mode()
def _predict(
    model: Backbone,
    task: Task,
    batches: Sequence[Sequence[Example]],
    *,
    accelerator: Accelerator,
    profiler: torch.profiler.profile,
) -> None:
    for examples in batches:
        batch = task.batch(model, examples, train=False)
        with accelerator.autocast():
            task.predict(model, batch, examples)
        profiler.step()
