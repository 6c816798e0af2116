"""One cell: attach a method, train it, predict, score, and read every meter."""

from __future__ import annotations

import os
from dataclasses import dataclass

import safetensors.torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor

from harness import energy, flops, meters, profile, stats
from harness.backbones.backbone import Backbone
from harness.checkpoints import own
from harness.evaluate import Evaluation, evaluate
from harness.params import sizes
from harness.plan import CellPlan, Plan
from harness.prepare import TaskData
from harness.record import Meter, MetricValue, distribution, scalar, unavailable
from harness.train import TrainResult, total_steps, train, trained_parameters, ways
from methods import Attachment
from tasks import Metric, Prediction

TRAINING = (
    "train_step_ms",
    "train_samples_per_s",
    "train_peak_bytes",
    "train_peak_reserved_bytes",
    "train_wall_s",
    "energy_joules",
)
"""Meters that are read while a cell is trained."""


@dataclass(frozen=True)
class Outcome:
    """What a finished cell measured; `state` is what it trained, where the plan asks to save it."""

    metrics: dict[str, MetricValue]
    meters: dict[str, Meter]
    predictions: list[Prediction]
    state: dict[str, Tensor] | None


def measure(model: Backbone, cell: CellPlan, plan: Plan, data: TaskData, *, label: str) -> Outcome:
    """Attach, train, predict, score and meter one cell; the backbone is given back whatever happens.

    Raises:
        Exception: whatever a method, a task or the hardware raises; the cell boundary in `harness.run` records it.
    """
    accelerator = _accelerator(plan)
    attachment = cell.method.attach(model, cell.seed)
    try:
        attachment.keep(model.use_head(lambda: cell.task.head(model), seed=cell.seed))
        if model.head is not None and not cell.method.trains:
            model.head.requires_grad_(False)
        if cell.init is not None:
            _restore(model, attachment, cell.init)
        training, of_training = _train(model, attachment, cell, plan, data, accelerator=accelerator, label=label)
        evaluation, of_evaluation = _evaluate(model, cell, plan, data, accelerator=accelerator, label=label)
        scores = cell.task.score(evaluation.predictions, data.evaluation)
        readings = {
            **_sizes(model, attachment),
            **of_training,
            **of_evaluation,
            **_flops(model, attachment, cell, data, training, evaluation, accelerator=accelerator),
        }
        state = trained_parameters(model, attachment) if plan.save else {}
        kept = {name: parameter.detach().cpu().clone() for name, parameter in state.items()}
        metrics = {name: _metric(score) for name, score in scores.items()}
        if plan.profile:
            profile.report(model, attachment, cell, plan, data, accelerator=accelerator, label=label)
        return Outcome(metrics, readings, evaluation.predictions, kept or None)
    finally:
        attachment.detach()


def _train(
    model: Backbone,
    attachment: Attachment,
    cell: CellPlan,
    plan: Plan,
    data: TaskData,
    *,
    accelerator: Accelerator,
    label: str,
) -> tuple[TrainResult | None, dict[str, Meter]]:
    """Train if the cell is to be trained; what training left behind and its meters."""
    if not cell.method.trains or not total_steps(len(data.train), cell.train):
        return None, dict.fromkeys(TRAINING, unavailable("not trained"))
    with ways(model, cell.train, data.train), meters.peak_memory(model.device) as peak:
        with energy.energy(model.device) as joules:
            training = train(
                model,
                attachment,
                cell.task,
                data.train,
                cell.train,
                accelerator=accelerator,
                seed=cell.seed,
                label=f"{label}: train",
            )
            used = joules()
        memory = _memory(peak(), cell, plan)
    return training, {
        "train_step_ms": distribution(training.step_ms, "ms"),
        "train_samples_per_s": scalar(training.samples / training.wall_s, "samples/s"),
        "train_peak_bytes": memory.used,
        "train_peak_reserved_bytes": memory.reserved,
        "train_wall_s": scalar(training.wall_s, "s"),
        "energy_joules": used,
    }


def _evaluate(
    model: Backbone, cell: CellPlan, plan: Plan, data: TaskData, *, accelerator: Accelerator, label: str
) -> tuple[Evaluation, dict[str, Meter]]:
    """Predict all examples, and single ones for the latency; the predictions and their meters."""
    with meters.peak_memory(model.device) as peak:
        evaluation = evaluate(
            model,
            cell.task,
            data.evaluation,
            accelerator=accelerator,
            batch_size=cell.train.eval_batch_size,
            label=f"{label}: evaluate",
        )
        memory = _memory(peak(), cell, plan)
    with accelerator.autocast():
        latency = meters.latency(model, cell.task, data.evaluation)
    return evaluation, {
        "eval_peak_bytes": memory.used,
        "eval_peak_reserved_bytes": memory.reserved,
        "infer_ms_per_sample": latency.infer_ms_per_sample,
        "infer_ms_per_sample_batched": scalar(evaluation.predict_ms / len(evaluation.predictions), "ms"),
        "prefill_ms": latency.prefill_ms,
        "decode_ms_per_token": latency.decode_ms_per_token,
        "eval_wall_s": scalar(evaluation.wall_s, "s"),
    }


def _flops(
    model: Backbone,
    attachment: Attachment,
    cell: CellPlan,
    data: TaskData,
    training: TrainResult | None,
    evaluation: Evaluation,
    *,
    accelerator: Accelerator,
) -> dict[str, Meter]:
    """Counted last, as counting is slow and what it computes is of no more use."""
    of_training: Meter = unavailable("not trained")
    if training is not None:
        of_training = flops.training(
            model,
            attachment,
            cell.task,
            data.train,
            cell.train,
            accelerator=accelerator,
            seed=cell.seed,
            lengths=training.lengths,
        )
    of_prediction = flops.prediction(model, cell.task, data.evaluation, evaluation.predictions, accelerator=accelerator)
    return {"train_flops_per_sample": of_training, "infer_flops_per_sample": of_prediction}


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


def _memory(peak: meters.PeakMemory, cell: CellPlan, plan: Plan) -> meters.PeakMemory:
    """A process keeps hundreds of MB of what a profiler took, so on a CPU only the first cell's peak is its own."""
    if not plan.profile or plan.device != "cpu" or cell is plan.cells[0]:
        return peak
    return meters.PeakMemory(unavailable("only measured for the first cell of a run with --profile"), peak.reserved)


def _metric(score: Metric) -> MetricValue:
    interval = None if score.successes is None or not score.n else stats.wilson(score.successes, score.n)
    return MetricValue(
        value=score.value, unit=score.unit, goal=score.goal, n=score.n, ci95=interval, reason=score.reason
    )
