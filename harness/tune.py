"""`run --tune`: the same number of short trainings for every method, scored on the validation split.

The best of them meets the values that the run would have had in a run-off of longer trainings, where there is time and
where longer ones there are. Nothing here is ever given the test split.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from harness import space
from harness.attaching import attached, new_accelerator
from harness.backbones.backbone import Backbone
from harness.evaluate import evaluate
from harness.plan import CellPlan, Plan
from harness.prepare import TaskData
from harness.space import Budget
from harness.statistics.paired import Incomparable, Sample, tested
from harness.statistics.significance import ALPHA
from harness.train import DivergedError, Step, total_steps, train, trained_parameters, ways
from methods import Attachment
from tasks import Metric, Prediction

if TYPE_CHECKING:
    import optuna

RANDOM_TRIALS = 4
"""Before so many have ended, the first with the cell's own values among them, values are drawn at random."""
KEPT_TRIALS = 2
"""So many run to their end before any is pruned."""
LONGER = 4
"""Times the steps of a trial that both trainings of the run-off take: short ones favour what learns fast."""


class NoScoreError(RuntimeError):
    """The validation split gave no score; the message says why."""


class _PrunedError(Exception):
    """The second half of a trial is not worth its time."""


@dataclass
class Trial:
    """One short training, and what came of it.

    Attributes:
        number: from 0, which has the cell's own values.
        values: what was tried, by name.
        score, halfway: the primary score of the validation split, at the end and at half of the steps.
        steps: those that were done.
        reason: why there is no score.
    """

    number: int
    values: dict[str, float]
    state: Literal["complete", "pruned", "failed"] = "complete"
    score: Metric | None = None
    halfway: Metric | None = None
    steps: int = 0
    seconds: float = 0.0
    reason: str | None = None

    def row(self) -> dict[str, Any]:
        """As records hold it, of the scores their values."""
        scores = {"score": self.score, "halfway": self.halfway}
        return vars(self) | {name: None if metric is None else metric.value for name, metric in scores.items()}


@dataclass(frozen=True)
class _Search:
    """What the trials of a search share. `data.evaluation` is the validation split; `steps` are those of a trial."""

    model: Backbone
    cell: CellPlan
    plan: Plan
    data: TaskData
    steps: int
    label: str


def trial_steps(cell: CellPlan, data: TaskData, budget: Budget) -> int:
    """Optimiser steps of a trial: the budget's share of the cell's own, at least one."""
    return max(1, round(budget.share * total_steps(len(data.train), cell.train)))


def search(
    model: Backbone,
    cell: CellPlan,
    plan: Plan,
    budget: Budget,
    data: TaskData,
    *,
    label: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Try values of what is searched of a cell, which has not been tuned; returns the report for its record.

    Trials have the cell's training examples and seed, and its schedule in fewer steps. On a CPU the same command gives
    the same trials, unless the budget's seconds end them.

    Args:
        model: with nothing attached.
        cell: what to tune.
        plan: for the device and the precision.
        budget: how many trials, and how long.
        data: with the validation split as `evaluation`.
        label: of the cell, in what is said.
        say: is told of every trial.

    Raises:
        Exception: what a method, a task or the hardware raises. A training that diverges is a failed trial.
    """
    job = _Search(model, cell, plan, data, trial_steps(cell, data, budget), label)
    study, trials = _study(cell), list[Trial]()
    started = time.perf_counter()

    def late() -> bool:
        return budget.seconds is not None and time.perf_counter() - started >= budget.seconds

    while len(trials) < budget.trials and not (trials and late()):
        trials.append(_trial(job, study, len(trials)))
        say(f"{label}: trial {len(trials)} of {budget.trials}, {_said(trials[-1])}")
    own, best, played = trials[0], _best(trials), None
    steps = min(LONGER * job.steps, total_steps(len(data.train), cell.train))
    if best is not None and best is not own and (late() or steps == job.steps):
        say(f"{label}: {'no time' if late() else 'nothing longer'} for a run-off: trial {best.number + 1} is taken")
    elif best is not None and best is not own:
        played = _run_off(dataclasses.replace(job, steps=steps, label=f"{label}: run-off"), own, best)
        best = best if played.won else own if own.score or played.own.score else None
        say(f"{label}: {played}")
    return _report(job, trials, best, played, seconds=time.perf_counter() - started)


def _study(cell: CellPlan) -> optuna.Study:
    """Begins with the cell's own values. It is told numbers of which more is better, whatever the score's goal."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=cell.seed, n_startup_trials=RANDOM_TRIALS),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=KEPT_TRIALS),
    )
    study.enqueue_trial(space.own_values(cell))
    return study


def _trial(job: _Search, study: optuna.Study, number: int) -> Trial:
    """Ask for values, try them, and tell how it went."""
    from optuna.distributions import FloatDistribution
    from optuna.trial import TrialState

    found = space.ranges(job.cell)
    asked = study.ask({name: FloatDistribution(of.low, of.high, log=of.log) for name, of in found.items()})
    trial, started = Trial(number, dict(asked.params)), time.perf_counter()
    try:
        trial.score, _ = _run(job, trial, asked)
    except _PrunedError:
        trial.state, trial.reason = "pruned", "at half of its steps below the median of the trials that ended"
    except (DivergedError, NoScoreError) as error:
        trial.state, trial.reason = "failed", str(error)
    trial.seconds = time.perf_counter() - started
    # For the sampler a pruned trial without any score is the worst; of a failed one it would learn nothing.
    value, state = (None, TrialState.PRUNED) if trial.score is None else (_worth(trial.score), TrialState.COMPLETE)
    study.tell(asked, value, state=state)
    return trial


def _run(job: _Search, trial: Trial, asked: optuna.Trial | None) -> tuple[Metric, list[Prediction]]:
    """Train with the trial's values and score the validation split. Only what was asked for may be pruned.

    Raises:
        _PrunedError, DivergedError, NoScoreError: there is no score.
    """
    cell = space.with_values(job.cell, trial.values)
    options = dataclasses.replace(cell.train, steps=job.steps, epochs=None)
    accelerator = new_accelerator(job.plan)
    label, predictions = f"{job.label}: trial {trial.number + 1}", list[Prediction]()
    with attached(job.model, cell) as attachment:

        def score() -> Metric:
            predictions[:] = evaluate(
                job.model,
                cell.task,
                job.data.evaluation,
                accelerator=accelerator,
                batch_size=options.eval_batch_size,
                label=f"{label}: validate",
            ).predictions
            return cell.task.score(predictions, job.data.evaluation)[cell.task.primary]

        def after_step(step: Step) -> None:
            trial.steps = step.number
            # Layers that compute their activations again have no use of a decoding cache.
            if asked is not None and step.number == job.steps // 2 and not options.checkpointing:
                attachment.train(False)
                trial.halfway = _checked(job.model, attachment, score)
                attachment.train(True)
                asked.report(_worth(trial.halfway), step.number)
                if asked.should_prune():
                    raise _PrunedError

        with ways(job.model, options, [*job.data.train, *job.data.evaluation]):
            train(
                job.model,
                attachment,
                cell.task,
                job.data.train,
                options,
                accelerator=accelerator,
                seed=cell.seed,
                label=f"{label}: train",
                after_step=after_step,
            )
        return _checked(job.model, attachment, score), predictions


def _checked(model: Backbone, attachment: Attachment, score: Callable[[], Metric]) -> Metric:
    """A score that is a number, of weights that are numbers.

    Raises:
        DivergedError, NoScoreError: it is not.
    """
    if not all(bool(torch.isfinite(weights).all()) for weights in trained_parameters(model, attachment).values()):
        raise DivergedError("a trained weight is not a finite number; lower train.lr")
    try:
        metric = score()
    except ValueError as error:  # of features that are no numbers
        raise NoScoreError(str(error)) from error
    if metric.value is None or not math.isfinite(metric.value):
        raise NoScoreError(metric.reason or f"the validation score is {metric.value}")
    return metric


def _worth(metric: Metric) -> float:
    """The score, turned where less is better."""
    if metric.value is None:
        raise ValueError("a metric without a value is worth nothing")
    return metric.value if metric.goal == "max" else -metric.value


def _best(trials: Sequence[Trial]) -> Trial | None:
    """The earliest of the best trials; None where none has a score."""
    scored = [(trial, _worth(trial.score)) for trial in trials if trial.score is not None]
    return max(scored, key=lambda pair: pair[1])[0] if scored else None


@dataclass(frozen=True)
class RunOff:
    """The values of the best trial against those that the run would have had, both trained longer from the same seed.

    Attributes:
        own, found: both trainings, scored on the whole validation split.
        p_value: of their difference there, example by example; None where that cannot be tested.
        won: whether what was found does better, and significantly so where that can be tested.
    """

    own: Trial
    found: Trial
    p_value: float | None
    won: bool

    def row(self) -> dict[str, Any]:
        """As records hold it."""
        return {"own": self.own.row(), "found": self.found.row(), "p_value": self.p_value, "won": self.won}

    def __str__(self) -> str:
        own, found = _outcome(self.own), _outcome(self.found)
        tested = "" if self.p_value is None else f", p = {self.p_value:.2g}"
        chosen = f"trial {self.found.number + 1} is taken" if self.won else "the run's own values stay"
        return f"run-off: own values {own}, trial {self.found.number + 1} {found}{tested}: {chosen}"


def _run_off(job: _Search, own: Trial, found: Trial) -> RunOff:
    """Train both for the steps of `job`. The best of many short trials may be lucky, or only quick."""
    rivals, answers = [Trial(trial.number, trial.values) for trial in (own, found)], list[list[Prediction]]()
    for rival in rivals:
        started = time.perf_counter()
        try:
            rival.score, predictions = _run(job, rival, None)
            answers.append(predictions)
        except (DivergedError, NoScoreError) as error:
            rival.state, rival.reason = "failed", str(error)
        rival.seconds = time.perf_counter() - started
    mine, other = (rival.score for rival in rivals)
    if mine is None or other is None:
        return RunOff(rivals[0], rivals[1], None, won=other is not None)
    p_value = _p_value(job, *answers)
    better = _worth(other) > _worth(mine)
    return RunOff(rivals[0], rivals[1], p_value, won=better and (p_value is None or p_value < ALPHA))


def _p_value(job: _Search, own: Sequence[Prediction], found: Sequence[Prediction]) -> float | None:
    """Of equal scores on the same examples; None where that cannot be tested."""
    samples = []
    for answers in (own, found):
        parts = sorted(job.cell.task.example_scores(answers, job.data.evaluation).items())
        ids, scores = [id for id, _ in parts], [score for _, score in parts]
        samples.append(Sample((), [ids], [score.group for score in scores], [score.value for score in scores]))
    if not all(sample.values for sample in samples):
        return None
    try:
        return tested(*samples)[0]
    except Incomparable:
        return None


def _report(
    job: _Search, trials: Sequence[Trial], best: Trial | None, played: RunOff | None, *, seconds: float
) -> dict[str, Any]:
    """What the record holds; `best` is the trial whose values are taken, None where none has a score."""
    import optuna

    return {
        "best": None if best is None else best.number,
        "values": {} if best is None else best.values,
        "metric": job.cell.task.primary,
        "score": None if best is None or best.score is None else best.score.value,
        "run_off": None if played is None else played.row(),
        "split": "val",
        "examples": len(job.data.evaluation),
        "sha256": job.data.sha256,
        "seed": job.cell.seed,
        "steps": job.steps,
        "seconds": seconds,
        "space": {name: dataclasses.asdict(found) for name, found in space.ranges(job.cell).items()},
        "sampler": f"TPESampler, {RANDOM_TRIALS} random trials",
        "pruner": f"MedianPruner at half of the steps, once {KEPT_TRIALS} trials have ended",
        "optuna": optuna.__version__,
        "trials": [trial.row() for trial in trials],
    }


def failure(report: dict[str, Any]) -> str | None:
    """Why there is nothing to choose; None where there is."""
    if report["best"] is not None:
        return None
    if (played := report["run_off"]) is not None:
        return f"tuning chose nothing: both trainings of the run-off failed; the first: {played['own']['reason']}"
    first = report["trials"][0]["reason"]
    return f"tuning chose nothing: none of {len(report['trials'])} trials has a score; the first: {first}"


def _said(trial: Trial) -> str:
    values = ", ".join(f"{name}={value:.3g}" for name, value in trial.values.items())
    return f"{values}: {_outcome(trial)}"


def _outcome(trial: Trial) -> str:
    known = trial.score or trial.halfway
    told = "" if known is None or known.value is None else f" {known.value:.2f} {known.unit}"
    return f"{trial.state}{told}"
