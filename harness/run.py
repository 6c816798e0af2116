"""From a plan to records: one cell after the other on one loaded backbone, each outcome written once."""

from __future__ import annotations

import dataclasses
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import harness
import methods
import tasks
from harness import backbones, example_scores, isolation, leaderboard, prepare, provenance
from harness.backbones.backbone import Backbone
from harness.checkpoints import own
from harness.measure import Outcome, measure
from harness.plan import CellPlan, Plan
from harness.prepare import Overlong, TaskData
from harness.record import Cell, Record, cell_key, new_run_id, scalar
from harness.store import Store
from harness.train import ways
from methods.kernels import Kernels
from tasks import ExampleScore

INTERRUPTED = 130
INTERRUPTION = "stopped by the user (Ctrl-C)"


@dataclass(frozen=True)
class Bench:
    """What all cells of a plan share: the loaded backbone, the checked data and where records go."""

    plan: Plan
    model: Backbone
    data: Mapping[str, TaskData]
    weights_sha256: str | None
    load_wall_s: float
    store: Store


@dataclass(frozen=True)
class Ready:
    """A cell that was checked before any training: why to skip it, prompts that do not fit, the code as it was then."""

    skip: str | None
    overlong: Overlong | None
    code: dict[str, Any]


@dataclass(frozen=True)
class Ending:
    """How a cell ended; of one that is ok what it measured, and its primary score by example."""

    status: Literal["ok", "failed", "skipped", "interrupted"]
    reason: str | None = None
    traceback: str | None = None
    outcome: Outcome | None = None
    parts: Mapping[str, ExampleScore] = field(default_factory=dict)


def execute(plan: Plan) -> int:
    """Run every cell of a plan that has no record yet, and print the leaderboard.

    Returns:
        0: every cell is ok or skipped; 1: some cell failed; 130: interrupted.

    Raises:
        tasks.DataError, backbones.BackboneError, store.StoreError: found before any training.
    """
    store = Store(plan.results)
    store.check_writable()
    data = {name: prepare.task_data(plan, name, task) for name, task in _distinct_tasks(plan).items()}
    started = time.perf_counter()
    model = backbones.load(plan.backbone, device=_device_of_checks(plan), precision=plan.precision)
    load_wall_s = time.perf_counter() - started
    for name, task in _distinct_tasks(plan).items():
        task.prepare([*data[name].train, *data[name].evaluation], image_size=model.image_size)
    bench = Bench(plan, model, data, _weights_sha256(model), load_wall_s, store)
    ready = [_preflight(bench, cell) for cell in plan.cells]
    run_cell = _cell
    if plan.isolate:
        # Only its shapes are needed from here on; the memory is for the processes of the cells.
        bench = dataclasses.replace(bench, model=backbones.load(plan.backbone, device="meta", precision=plan.precision))
        del model
        run_cell = _apart
    cells = f"{len(plan.cells)} cell{'s' if len(plan.cells) > 1 else ''}"
    _say(f"{cells} on {bench.model.name}, {plan.precision} on {plan.device}, records in {plan.results}")
    statuses = []
    for number, (cell, checked) in enumerate(zip(plan.cells, ready, strict=True), start=1):
        statuses.append(run_cell(bench, cell, checked, f"[{number}/{len(plan.cells)}]"))
        if statuses[-1] == "interrupted":
            left = len(plan.cells) - number + 1
            _say(f"{left} of {cells} not done: the same command goes on with what is left")
            break
    print(f"\n{leaderboard.markdown(_of_plan(bench), scores=example_scores.reader(store))}")
    if "interrupted" in statuses:
        return INTERRUPTED
    return 1 if "failed" in statuses else 0


def _device_of_checks(plan: Plan) -> str:
    """Where the backbone is held against the plan: not on the GPU that the cells' processes are to have."""
    if not plan.isolate:
        return plan.device
    return "meta" if plan.backbone.weights == "random" else "cpu"


def _distinct_tasks(plan: Plan) -> dict[str, tasks.Task]:
    return {cell.task_name: cell.task for cell in plan.cells}


def _of_plan(bench: Bench) -> list[Record]:
    keys = {cell_key(_identity(bench, cell)) for cell in bench.plan.cells}
    return [record for record in bench.store.read() if cell_key(record.cell) in keys]


def _preflight(bench: Bench, cell: CellPlan) -> Ready:
    """Attach once for the checks that need it; the reason to skip where the backbone lacks something."""
    code = provenance.code(_sources(cell))
    lacking = sorted(cell.task.needs - bench.model.offers)
    unmet = f"{bench.model.name} offers no {', '.join(lacking)}" if lacking else cell.method.unmet(bench.model)
    if unmet is not None:
        return Ready(unmet, None, code)
    ways(bench.model, cell.train).close()
    attachment = cell.method.attach(bench.model, cell.seed)
    try:
        if cell.init is not None:
            own.fit(
                cell.init.state, attachment.state_dict(), where=f"--init of {cell.method_name} on {bench.model.name}"
            )
        return Ready(None, prepare.check_lengths(cell, bench.model, bench.data[cell.task_name]), code)
    finally:
        attachment.detach()


def _sources(cell: CellPlan) -> dict[str, Path]:
    """The files that make a number; whole packages too, as a method may use another one or shared layers."""
    methods_folder, tasks_folder = Path(methods.__file__).parent, Path(tasks.__file__).parent
    return {
        "method": Path(sys.modules[type(cell.method).__module__].__file__ or methods_folder),
        "task": Path(sys.modules[type(cell.task).__module__].__file__ or tasks_folder),
        "kernels": methods_folder / "kernels",
        "methods": methods_folder,
        "tasks": tasks_folder,
        "harness": Path(harness.__file__).parent,
    }


def _identity(bench: Bench, cell: CellPlan) -> Cell:
    plan, data = bench.plan, bench.data[cell.task_name]
    options = {
        "method": dataclasses.asdict(cell.method) | ({"init_sha256": cell.init.sha256} if cell.init else {}),
        "task": dataclasses.asdict(cell.task),
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
        },
        "data": {"sha256": data.sha256, "train": len(data.train), "eval": len(data.evaluation)},
    }
    return Cell(
        method=cell.method_name,
        task=cell.task_name,
        backbone=bench.model.name,
        seed=cell.seed,
        options=options,
        explicit=dict(cell.explicit),
    )


def _apart(bench: Bench, plan: CellPlan, ready: Ready, number: str) -> str:
    """As `_cell`, in a process of its own; if that is killed, the record says so and the matrix goes on."""
    if ready.skip is not None or (not bench.plan.fresh and bench.store.find(cell_key(_identity(bench, plan)))):
        return _cell(bench, plan, ready, number)
    started = datetime.now(UTC)
    # A task keeps pictures it has read; a new one of the same options has none to send.
    plan = dataclasses.replace(plan, task=dataclasses.replace(plan.task))
    alone = dataclasses.replace(bench.plan, cells=(plan,), fresh=True)
    try:
        return isolation.apart(_fresh_cell, alone, bench.data[plan.task_name], bench.weights_sha256, ready, number)
    except KeyboardInterrupt:
        return _append(bench, plan, ready, started, number, Ending("interrupted", INTERRUPTION))
    except isolation.ProcessEndedError as error:
        ending = Ending("failed", f"the process of this run ended: {error}")
        return _append(bench, plan, ready, started, number, ending)


def _fresh_cell(plan: Plan, data: TaskData, weights_sha256: str | None, ready: Ready, number: str) -> str:
    [cell] = plan.cells
    started = time.perf_counter()
    model = backbones.load(plan.backbone, device=plan.device, precision=plan.precision)
    load_wall_s = time.perf_counter() - started
    bench = Bench(plan, model, {cell.task_name: data}, weights_sha256, load_wall_s, Store(plan.results))
    return _cell(bench, cell, ready, number)


def _cell(bench: Bench, plan: CellPlan, ready: Ready, number: str) -> str:
    """Run one cell to its record: the one boundary where an error becomes a record. Returns the status."""
    found = None if bench.plan.fresh else bench.store.find(cell_key(_identity(bench, plan)))
    if found is not None:
        unsaved = (
            "; --save has nothing of it, --fresh trains it again" if bench.plan.save and found.status == "ok" else ""
        )
        _say(f"{_label(bench, plan, number)}: kept {found.run_id} ({_headline(found)}){unsaved}")
        return found.status
    started = datetime.now(UTC)
    bench.model.kernels = Kernels(bench.plan.kernels)
    try:
        ending = Ending("skipped", ready.skip) if ready.skip is not None else _measured(bench, plan, number)
    except KeyboardInterrupt:
        ending = Ending("interrupted", INTERRUPTION)
    except Exception as error:  # noqa: BLE001 - the cell boundary: recorded with its traceback, the matrix goes on
        ending = Ending("failed", f"{type(error).__name__}: {error}", traceback.format_exc())
    return _append(bench, plan, ready, started, number, ending)


def _measured(bench: Bench, plan: CellPlan, number: str) -> Ending:
    data = bench.data[plan.task_name]
    outcome = measure(bench.model, plan, bench.plan, data, label=_label(bench, plan, number))
    parts = plan.task.example_scores(outcome.predictions, data.evaluation)
    metrics = {
        name: example_scores.with_interval(score, parts) if name == plan.task.primary else score
        for name, score in outcome.metrics.items()
    }
    return Ending("ok", outcome=dataclasses.replace(outcome, metrics=metrics), parts=parts)


def _label(bench: Bench, plan: CellPlan, number: str) -> str:
    return f"{number} {plan.method_name} on {plan.task_name}, {bench.model.name}, seed {plan.seed}"


def _append(bench: Bench, plan: CellPlan, ready: Ready, started: datetime, number: str, ending: Ending) -> str:
    """Write the record of a cell, its predictions and what it trained. Returns the status."""
    identity, label, outcome = _identity(bench, plan), _label(bench, plan, number), ending.outcome
    record = Record(
        run_id=new_run_id(identity, started),
        status=ending.status,
        reason=ending.reason,
        traceback=ending.traceback,
        cell=identity,
        metrics=outcome.metrics if outcome else {},
        meters={**outcome.meters, "load_wall_s": scalar(bench.load_wall_s, "s")} if outcome else {},
        provenance=_provenance(bench, plan, ready, started),
    )
    path = bench.store.append(record, example_scores.rows(outcome.predictions, ending.parts) if outcome else None)
    _say(f"{label}: {_headline(record)} -> {path}")
    if outcome is not None and outcome.state:
        folder = bench.plan.results / "adapters" / path.relative_to(bench.plan.results / "runs").with_suffix("")
        own.save(
            folder,
            method_name=plan.method_name,
            method=plan.method,
            state=outcome.state,
            backbone=bench.model.name,
            note=f"run {record.run_id}",
        )
        _say(f"{label}: what was trained -> {folder}")
    return ending.status


def _provenance(bench: Bench, plan: CellPlan, ready: Ready, started: datetime) -> dict[str, Any]:
    data = bench.data[plan.task_name]
    cut = ready.overlong.train + ready.overlong.evaluation if ready.overlong else 0
    return provenance.collect(
        argv=bench.plan.argv,
        device=bench.plan.device,
        precision=bench.plan.precision,
        isolated=bench.plan.isolate,
        kernels=", ".join(sorted(bench.model.kernels.ran)) or "none",
        data={"root": str(data.root), "sha256": data.sha256, "prompts_cut": cut},
        weights={"sha256": bench.weights_sha256},
        code=ready.code,
        started=started,
        ended=datetime.now(UTC),
    )


def _weights_sha256(model: Backbone) -> str | None:
    """Hash of the weight files that were loaded; None for random weights."""
    files = [
        path
        for where in model.folders
        for path in ([where] if where.is_file() else sorted(where.glob("*.safetensors")))
    ]
    return provenance.hash_files(files) if files else None


def _headline(record: Record) -> str:
    if record.status != "ok":
        return f"{record.status}: {record.reason}"
    name, score = next(iter(record.metrics.items()))
    value = (
        "no value"
        if score.value is None
        else f"{score.value:.2f}{score.unit if score.unit == '%' else ' ' + score.unit}"
    )
    step = record.meters["train_step_ms"]
    pace = f", {step.median:.1f} ms per step" if hasattr(step, "median") else ""
    return f"{name} {value}{pace}"


def _say(line: str) -> None:
    print(line, flush=True)
