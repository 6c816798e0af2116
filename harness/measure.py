"""One cell: attach a method, train it, predict, score, and read every meter."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import safetensors.torch
from accelerate import Accelerator
from torch import Tensor

from harness import profile
from harness.attaching import attached, new_accelerator
from harness.backbones.backbone import Backbone
from harness.evaluate import Evaluation, evaluate
from harness.meters import energy, flops, largest_batch, speed, utilisation
from harness.meters.gpu_sharing import Sharing
from harness.meters.memory import PeakMemory, peak_memory, used_memory
from harness.meters.params import sizes
from harness.parallel import fsdp
from harness.parallel.ranks import ALONE, Ranks
from harness.plan import CellPlan, Plan, TrainOptions
from harness.prepare import TaskData
from harness.record import Meter, MetricValue, distribution, scalar, unavailable
from harness.resume.answers import KeptAnswers
from harness.resume.keeper import Keeper
from harness.statistics import intervals
from harness.train import Step, TrainResult, total_steps, train, trained_parameters, ways
from methods import Attachment
from tasks import Metric, Prediction

TRAINING = (
    "train_step_ms",
    "train_samples_per_s",
    "train_peak_bytes",
    "train_peak_reserved_bytes",
    "train_rise_bytes",
    "train_wall_s",
    "energy_joules",
)
"""Meters that are read while a cell is trained."""
PEAKS = ("train_peak_bytes", "train_peak_reserved_bytes", "train_rise_bytes")
UNTRAINED = "untrained"
"""Names the weights of a method that trains nothing."""
SEVERAL = "several processes trained together, and each reads its own device alone"
RESUMED = "the training was interrupted and went on in another process"
RESUMED_EVALUATION = "the evaluation was interrupted and went on in another process"


@dataclass(frozen=True)
class Outcome:
    """What a finished cell measured.

    `samples` has readings one by one, `gpu_sharing` who else was on the GPU (None on a CPU), `state` what was trained
    where the plan asks to save it, `cut` the batches that had to be cut since memory ran out.
    """

    metrics: dict[str, MetricValue]
    meters: dict[str, Meter]
    samples: dict[str, list[float]]
    gpu_sharing: dict[str, Any] | None
    predictions: list[Prediction]
    state: dict[str, Tensor] | None
    cut: dict[str, Any]


def measure(
    model: Backbone,
    cell: CellPlan,
    plan: Plan,
    data: TaskData,
    *,
    label: str,
    after_step: Callable[[Step], None] | None = None,
    keeper: Keeper | None = None,
    ranks: Ranks = ALONE,
) -> Outcome | None:
    """Attach, train, predict, score and meter one cell; the backbone is given back whatever happens.

    `after_step` is told of each training step. With a `keeper` the cell goes on where an earlier process left it. Of
    several `ranks` only the first has an outcome; times and memory are its own. With FSDP2 the backbone's layers are
    split and stay so; every process then predicts every example, as a layer needs all of them.

    Raises:
        Exception: whatever a method, a task or the hardware raises; the cell boundary in `harness.cell` records it.
    """
    accelerator = new_accelerator(plan)
    before, sharing = used_memory(accelerator.device), Sharing(accelerator.device)
    sharing.look()
    with attached(model, cell) as attachment:
        job = _Job(model, attachment, cell, plan, data, accelerator, before, label, keeper, ranks)
        if job.split:
            fsdp.shard(model, attachment, ranks, accelerator.device)
        training, of_training = _train(job, after_step)
        sharing.look()
        of_training["train_process_bytes"] = sharing.own if training is not None else unavailable("not trained")
        evaluation, of_evaluation = _evaluate(job, weights=UNTRAINED if training is None else training.weights)
        if not job.split and not ranks.first:
            return None
        latency, of_latency = _latency(job)
        sharing.look()
        scores = cell.task.score(evaluation.predictions, data.evaluation)
        read = _sizes(job) | of_training | of_evaluation | of_latency | _flops(job, training, evaluation)
        state = _state(job)
        if plan.profile:
            profile.report(model, attachment, cell, plan, data, accelerator=accelerator, label=label)
        if not ranks.first:
            return None
        losses = {} if training is None else {"train_loss": training.losses, "train_step_ms": training.step_ms}
        return Outcome(
            metrics={name: _metric(score) for name, score in scores.items()},
            meters=read,
            samples=losses | latency.samples,
            gpu_sharing=sharing.as_json(),
            predictions=evaluation.predictions,
            state=state or None,
            cut={
                "training": [] if training is None else training.cut_at,
                "evaluation": sorted(set(evaluation.halved)),
            },
        )


@dataclass(frozen=True)
class _Job:
    """What every part of a measurement needs; `before` is the memory that was used when it began."""

    model: Backbone
    attachment: Attachment
    cell: CellPlan
    plan: Plan
    data: TaskData
    accelerator: Accelerator
    before: int | None
    label: str
    keeper: Keeper | None
    ranks: Ranks

    @property
    def split(self) -> bool:
        """Whether processes share the weights of each layer."""
        return not self.ranks.alone and self.plan.launch.parallel == "fsdp2"

    def answers(self, weights: str | None) -> contextlib.AbstractContextManager[KeptAnswers | None]:
        """Where the answers of these weights are kept; nowhere if nobody has kept the weights."""
        if self.keeper is None or weights is None:
            return contextlib.nullcontext()
        return self.keeper.answers(weights, self.cell.task)


def _train(job: _Job, after_step: Callable[[Step], None] | None) -> tuple[TrainResult | None, dict[str, Meter]]:
    """Train if the cell is to be trained; what training left behind and its meters."""
    model, cell, keeper = job.model, job.cell, job.keeper
    if not cell.method.trains or not total_steps(len(job.data.train), cell.train):
        return None, dict.fromkeys(TRAINING, unavailable("not trained"))
    name = None if keeper is None else keeper.features
    with (
        ways(model, cell.train, job.data.train, name=name),
        peak_memory(model.device, before=job.before) as peak,
    ):
        with energy.energy(model.device) as joules:
            training = train(
                model,
                job.attachment,
                cell.task,
                job.data.train,
                cell.train,
                accelerator=job.accelerator,
                seed=cell.seed,
                label=f"{job.label}: train",
                after_step=after_step,
                keeper=keeper,
                ranks=job.ranks,
            )
            used = joules() if job.ranks.alone else unavailable(SEVERAL)
        memory = _memory(peak(), job)
    read: dict[str, Meter] = {
        "train_step_ms": distribution(training.step_ms, "ms"),
        "train_samples_per_s": scalar(training.samples / training.wall_s, "samples/s"),
        "train_peak_bytes": memory.used,
        "train_peak_reserved_bytes": memory.reserved,
        "train_rise_bytes": memory.rise,
        "train_wall_s": scalar(training.wall_s, "s"),
        "energy_joules": used,
    }
    lost: dict[str, Meter] = dict.fromkeys(_lost(keeper, training), unavailable(RESUMED))
    return training, read | lost


def _lost(keeper: Keeper | None, training: TrainResult) -> tuple[str, ...]:
    """Meters that this process cannot read, since others did a part of the training, or all of it."""
    if keeper is None or not keeper.resumed:
        return ()
    return ("energy_joules", *(PEAKS if keeper.resumed[-1] == len(training.losses) else ()))


def _evaluate(job: _Job, *, weights: str | None) -> tuple[Evaluation, dict[str, Meter]]:
    """Predict all examples with `weights`, as the keeper calls them; the predictions and the meters of that."""
    with job.answers(weights) as kept, peak_memory(job.model.device, before=job.before) as peak:
        evaluation = evaluate(
            job.model,
            job.cell.task,
            job.data.evaluation,
            accelerator=job.accelerator,
            batch_size=job.cell.train.eval_batch_size,
            label=f"{job.label}: evaluate",
            kept=kept,
            ranks=ALONE if job.split else job.ranks,
        )
        memory = _memory(peak(), job)
    read: dict[str, Meter] = {
        "eval_peak_bytes": memory.used,
        "eval_peak_reserved_bytes": memory.reserved,
        "eval_rise_bytes": memory.rise,
        "eval_wall_s": scalar(evaluation.wall_s, "s"),
    }
    if kept is not None and kept.used:
        read = dict.fromkeys(read, unavailable(RESUMED_EVALUATION))
    # Of the answers that were kept the times are too.
    batched = scalar(evaluation.predict_ms / len(evaluation.predictions), "ms")
    return evaluation, {**read, "infer_ms_per_sample_batched": batched}


def _latency(job: _Job) -> tuple[speed.Latency, dict[str, Meter]]:
    """Predict single examples, and as many at once as fit; where layers are split, in step with the other processes.

    An error leaves their meters without a value, as it must not cost a finished training its record; but not where
    layers are split, as the others would wait for this process.
    """
    model, cell, data = job.model, job.cell, job.data
    with job.accelerator.autocast():
        if job.split:
            latency = speed.latency(model, cell.task, data.evaluation)
            no_look = unavailable("not looked for where processes share the weights")
            return latency, latency.meters | dict.fromkeys(largest_batch.METERS, no_look)
        try:
            latency = speed.latency(model, cell.task, data.evaluation)
        except Exception as error:  # noqa: BLE001 - see above
            latency = speed.Latency([], [], [], _not_measured(error))
        return latency, latency.meters | largest_batch.readings(model, cell.task, data.evaluation)


def _not_measured(error: Exception) -> str:
    return " ".join(f"could not be measured: {type(error).__name__}: {error}".split())


def _flops(job: _Job, training: TrainResult | None, evaluation: Evaluation) -> dict[str, Meter]:
    """Counted last, as counting is slow and what it computes is of no more use."""
    model, cell, plan, data = job.model, job.cell, job.plan, job.data
    of_training: Meter = unavailable("not trained")
    of_step: Meter = of_training
    if training is not None:
        of_training = flops.training(
            model,
            job.attachment,
            cell.task,
            data.train,
            _as_cut(cell.train, training, processes=plan.launch.count),
            accelerator=job.accelerator,
            seed=cell.seed,
            lengths=training.lengths,
        )
        try:
            of_step = utilisation.utilisation(
                of_training,
                training.step_ms,
                samples_per_step=training.samples / len(training.losses) / plan.launch.count,
                device=model.device,
                precision=plan.precision,
            )
        except Exception as error:  # noqa: BLE001 - it must not cost a finished training its record
            of_step = unavailable(_not_measured(error))
    answers = evaluation.predictions
    of_prediction = flops.prediction(model, cell.task, data.evaluation, answers, accelerator=job.accelerator)
    return {
        "train_flops_per_sample": of_training,
        "infer_flops_per_sample": of_prediction,
        "train_flops_utilisation": of_step,
    }


def _as_cut(options: TrainOptions, training: TrainResult, *, processes: int) -> TrainOptions:
    """The options with as many parts as memory had room for in the end, up to what divides the batch."""
    if not training.cut_at:
        return options
    parts = training.parts * processes
    fitting = [n for n in range(parts, options.batch_size + 1) if options.batch_size % n == 0]
    return dataclasses.replace(options, accumulate=fitting[0] if fitting else options.batch_size)


def _whole(job: _Job) -> dict[str, Tensor]:
    """What is trained, on the CPU; of layers that are split all parts, for which every process has to ask."""
    trained = trained_parameters(job.model, job.attachment).items()
    return {name: fsdp.whole(parameter.detach()).cpu().contiguous() for name, parameter in trained}


def _state(job: _Job) -> dict[str, Tensor]:
    """What is to be saved, nothing where the plan does not ask for it."""
    return {name: tensor.clone() for name, tensor in _whole(job).items()} if job.plan.save else {}


def _sizes(job: _Job) -> dict[str, Meter]:
    found, state = sizes(job.model, job.attachment), _whole(job)
    return {
        "trainable_params": scalar(found.trainable, "params"),
        "task_params": scalar(found.task, "params"),
        "total_params": scalar(found.total, "params"),
        "adapter_bytes": scalar(len(safetensors.torch.save(state)) if state else 0, "bytes"),
    }


def _memory(peak: PeakMemory, job: _Job) -> PeakMemory:
    """A process keeps hundreds of MB of what a profiler took, so on a CPU only the first cell's peak is its own."""
    if not job.plan.profile or job.plan.device != "cpu" or job.cell is job.plan.cells[0]:
        return peak
    reason = unavailable("only measured for the first cell of a run with --profile")
    return PeakMemory(reason, reason, peak.reserved)


def _metric(score: Metric) -> MetricValue:
    interval = None if score.successes is None or not score.n else intervals.wilson(score.successes, score.n)
    return MetricValue(
        value=score.value, unit=score.unit, goal=score.goal, n=score.n, ci95=interval, reason=score.reason
    )
