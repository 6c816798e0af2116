"""From a plan to records: one cell after the other on one loaded backbone, each outcome written once."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor

import harness
import methods
import tasks
from harness import backbones, leaderboard, meters, prepare, provenance, stats
from harness.backbones.backbone import Backbone
from harness.checkpoints import own
from harness.evaluate import Evaluation, evaluate
from harness.params import sizes
from harness.plan import CellPlan, Plan
from harness.prepare import Overlong, TaskData
from harness.record import Cell, Meter, MetricValue, Record, cell_key, distribution, new_run_id, scalar, unavailable
from harness.store import Store
from harness.train import TrainResult, total_steps, train, trained_parameters
from methods import Attachment
from tasks import Metric, Prediction

INTERRUPTED = 130


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
class Outcome:
    """What a finished cell measured."""

    metrics: dict[str, MetricValue]
    meters: dict[str, Meter]
    predictions: list[Prediction]
    state: dict[str, Tensor] | None


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
    model = backbones.load(plan.backbone, device=plan.device, precision=plan.precision)
    load_wall_s = time.perf_counter() - started
    for name, task in _distinct_tasks(plan).items():
        task.prepare([*data[name].train, *data[name].evaluation], image_size=model.image_size)
    bench = Bench(plan, model, data, _weights_sha256(model), load_wall_s, store)
    ready = [_preflight(bench, cell) for cell in plan.cells]
    cells = f"{len(plan.cells)} cell{'s' if len(plan.cells) > 1 else ''}"
    _say(f"{cells} on {model.name}, {plan.precision} on {plan.device}, records in {plan.results}")
    statuses = []
    for number, (cell, checked) in enumerate(zip(plan.cells, ready, strict=True), start=1):
        statuses.append(_cell(bench, cell, checked, f"[{number}/{len(plan.cells)}]"))
        if statuses[-1] == "interrupted":
            break
    print(f"\n{leaderboard.markdown(_of_plan(bench))}")
    if "interrupted" in statuses:
        return INTERRUPTED
    return 1 if "failed" in statuses else 0


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
            "kernels": "reference",
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


def _cell(bench: Bench, plan: CellPlan, ready: Ready, number: str) -> str:
    """Run one cell to its record: the one boundary where an error becomes a record. Returns the status."""
    identity = _identity(bench, plan)
    label = f"{number} {plan.method_name} on {plan.task_name}, {bench.model.name}, seed {plan.seed}"
    found = None if bench.plan.fresh else bench.store.find(cell_key(identity))
    if found is not None:
        _say(f"{label}: kept {found.run_id} ({_headline(found)})")
        return found.status
    started, outcome, failure = datetime.now(UTC), None, None
    status, reason = "ok", None
    if ready.skip is not None:
        status, reason = "skipped", ready.skip
    else:
        try:
            outcome = _measure(bench, plan, label)
        except KeyboardInterrupt:
            status, reason = "interrupted", "stopped by the user (Ctrl-C)"
        except Exception as error:  # noqa: BLE001 - the cell boundary: recorded with its traceback, the matrix goes on
            status, reason, failure = "failed", f"{type(error).__name__}: {error}", traceback.format_exc()
    record = Record(
        run_id=new_run_id(identity, started),
        status=status,  # type: ignore[arg-type]
        reason=reason,
        traceback=failure,
        cell=identity,
        metrics=outcome.metrics if outcome else {},
        meters=outcome.meters if outcome else {},
        provenance=_provenance(bench, plan, ready, started),
    )
    rows = [dataclasses.asdict(prediction) for prediction in outcome.predictions] if outcome else None
    path = bench.store.append(record, rows)
    if outcome is not None and outcome.state:
        own.save(
            bench.plan.results / "adapters" / path.relative_to(bench.plan.results / "runs").with_suffix(""),
            method_name=plan.method_name,
            method=plan.method,
            state=outcome.state,
            backbone=bench.model.name,
            note=f"run {record.run_id}",
        )
    _say(f"{label}: {_headline(record)} -> {path}")
    return status


def _measure(bench: Bench, plan: CellPlan, label: str) -> Outcome:
    """Attach, train, predict, score and meter one cell; the backbone is given back whatever happens."""
    run = bench.plan
    accelerator = _accelerator(run)
    attachment = plan.method.attach(bench.model, plan.seed)
    attachment.keep(bench.model.use_head(lambda: plan.task.head(bench.model), seed=plan.seed))
    if bench.model.head is not None and not plan.method.trains:
        bench.model.head.requires_grad_(False)
    try:
        data = bench.data[plan.task_name]
        if plan.init is not None:
            _restore(bench.model, attachment, plan.init)
        training, trained = None, None
        if plan.method.trains and total_steps(len(data.train), plan.train):
            with meters.peak_memory(bench.model.device) as peak:
                training = train(
                    bench.model,
                    attachment,
                    plan.task,
                    data.train,
                    plan.train,
                    accelerator=accelerator,
                    seed=plan.seed,
                    label=f"{label}: train",
                )
                trained = peak()
        with meters.peak_memory(bench.model.device) as peak:
            evaluation = evaluate(
                bench.model,
                plan.task,
                data.evaluation,
                accelerator=accelerator,
                batch_size=plan.train.eval_batch_size,
                label=f"{label}: evaluate",
            )
            evaluated = peak()
        with accelerator.autocast():
            latency = meters.latency(bench.model, plan.task, data.evaluation)
        scores = plan.task.score(evaluation.predictions, data.evaluation)
        readings = {
            **_sizes(bench.model, attachment),
            **_training_meters(training, trained),
            **_evaluation_meters(evaluation, evaluated, latency),
            "load_wall_s": scalar(bench.load_wall_s, "s"),
        }
        state = trained_parameters(bench.model, attachment) if run.save else {}
        kept = {name: parameter.detach().cpu().clone() for name, parameter in state.items()}
        metrics = {name: _metric(score) for name, score in scores.items()}
        return Outcome(metrics, readings, evaluation.predictions, kept or None)
    finally:
        attachment.detach()


def _restore(model: Backbone, attachment: Attachment, init: own.Saved) -> None:
    """Load a checkpoint into the method and, where it holds them, into the task's own parameters."""
    head = {name.removeprefix(own.HEAD): t for name, t in init.state.items() if name.startswith(own.HEAD)}
    attachment.load_state_dict({name: t for name, t in init.state.items() if not name.startswith(own.HEAD)})
    if head and model.head is not None:
        model.head.load_state_dict(head)


def _accelerator(plan: Plan) -> Accelerator:
    """A fresh accelerator per cell: accelerate keeps its state in a process-wide singleton."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = plan.device
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    precision = "no" if plan.precision == "fp32" else plan.precision
    return Accelerator(cpu=plan.device == "cpu", mixed_precision=precision)


def _sizes(model: Backbone, attachment: Attachment) -> dict[str, Meter]:
    found = sizes(model, attachment)
    state = {name: p.detach().cpu().contiguous() for name, p in trained_parameters(model, attachment).items()}
    return {
        "trainable_params": scalar(found.trainable, "params"),
        "task_params": scalar(found.task, "params"),
        "total_params": scalar(found.total, "params"),
        "adapter_bytes": scalar(len(safetensors.torch.save(state)) if state else 0, "bytes"),
    }


def _training_meters(training: TrainResult | None, peak: meters.PeakMemory | None) -> dict[str, Meter]:
    later = unavailable("not measured by this version of vltune")
    readings: dict[str, Meter] = {
        "train_flops_per_sample": later,
        "infer_flops_per_sample": later,
        "energy_joules": later,
    }
    if training is None or peak is None:
        untrained = unavailable("not trained")
        names = (
            "train_step_ms",
            "train_samples_per_s",
            "train_peak_bytes",
            "train_peak_reserved_bytes",
            "train_wall_s",
        )
        return {**readings, **dict.fromkeys(names, untrained)}
    return {
        **readings,
        "train_step_ms": distribution(training.step_ms, "ms"),
        "train_samples_per_s": scalar(training.samples / training.wall_s, "samples/s"),
        "train_peak_bytes": peak.used,
        "train_peak_reserved_bytes": peak.reserved,
        "train_wall_s": scalar(training.wall_s, "s"),
    }


def _evaluation_meters(evaluation: Evaluation, peak: meters.PeakMemory, latency: meters.Latency) -> dict[str, Meter]:
    return {
        "eval_peak_bytes": peak.used,
        "eval_peak_reserved_bytes": peak.reserved,
        "infer_ms_per_sample": latency.infer_ms_per_sample,
        "infer_ms_per_sample_batched": scalar(evaluation.predict_ms / len(evaluation.predictions), "ms"),
        "prefill_ms": latency.prefill_ms,
        "decode_ms_per_token": latency.decode_ms_per_token,
        "eval_wall_s": scalar(evaluation.wall_s, "s"),
    }


def _metric(score: Metric) -> MetricValue:
    interval = None if score.successes is None or not score.n else stats.wilson(score.successes, score.n)
    return MetricValue(
        value=score.value, unit=score.unit, goal=score.goal, n=score.n, ci95=interval, reason=score.reason
    )


def _provenance(bench: Bench, plan: CellPlan, ready: Ready, started: datetime) -> dict[str, Any]:
    data = bench.data[plan.task_name]
    cut = ready.overlong.train + ready.overlong.evaluation if ready.overlong else 0
    return provenance.collect(
        argv=bench.plan.argv,
        device=bench.plan.device,
        precision=bench.plan.precision,
        kernels="reference",
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
