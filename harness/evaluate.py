"""Prediction over a whole split: batched by length, reported in the order of the examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator

from harness.backbones.backbone import Backbone
from harness.meters.speed import Stopwatch
from harness.out_of_memory import in_halves
from harness.parallel.fsdp import is_split
from harness.parallel.ranks import ALONE, Ranks
from harness.progress import progress
from harness.resume.answers import KeptAnswers
from tasks import Example, Prediction, Task


@dataclass(frozen=True)
class Evaluation:
    """Concluded predictions in the order of the examples, and the time spent in predicting alone, in both rounds.

    `halved`: the batch sizes that were fallen back to where memory ran out.
    """

    predictions: list[Prediction]
    predict_ms: float
    wall_s: float
    halved: list[int] = field(default_factory=list)


@torch.inference_mode()
def evaluate(
    model: Backbone,
    task: Task,
    examples: Sequence[Example],
    *,
    accelerator: Accelerator,
    batch_size: int,
    label: str,
    kept: KeptAnswers | None = None,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Predict every example, then those that the task asks for in a second round.

    Batches that `kept` has are not predicted again; the others go there. Of `count` ranks each predicts every
    `count`-th batch, and all get all answers.

    Raises:
        RuntimeError: an example was answered twice, or by nobody.
    """
    total = Stopwatch(model.device)
    predicting = _Predicting(model, task, accelerator, batch_size, kept, ranks)
    first = predicting.round(examples, label)
    further = task.follow_up(first.predictions, examples)
    second = predicting.round(further, f"{label}, second round") if further else _Round([], 0.0, [])
    concluded = task.conclude([*first.predictions, *second.predictions], examples)
    predict_ms, halved = first.predict_ms + second.predict_ms, [*first.halved, *second.halved]
    return Evaluation(concluded, predict_ms, total.ms() / 1e3, halved)


@dataclass(frozen=True)
class _Round:
    """The predictions of some examples in their order, as in `Evaluation`."""

    predictions: list[Prediction]
    predict_ms: float
    halved: list[int]


@dataclass(frozen=True)
class _Predicting:
    """What both rounds need, as `evaluate` is given it."""

    model: Backbone
    task: Task
    accelerator: Accelerator
    batch_size: int
    kept: KeptAnswers | None
    ranks: Ranks

    def round(self, examples: Sequence[Example], label: str) -> _Round:
        """Predict every example; batches hold texts of similar length so that little padding is computed."""
        lengths = [self.model.text_length(prompt, None) for prompt, _ in self.task.texts(examples, train=False)]
        by_length = sorted(range(len(examples)), key=lambda i: (-lengths[i], examples[i].id))
        predictions: dict[int, Prediction] = {}
        halved: list[int] = []
        predict_ms, watch = 0.0, Stopwatch(self.model.device)
        starts = range(0, len(examples), self.batch_size)[self.ranks.rank :: self.ranks.count]
        for start in progress(starts, total=len(starts), label=label, units="batches"):
            indices = by_length[start : start + self.batch_size]
            answers, took_ms = self._answers([examples[i] for i in indices], watch, halved)
            predict_ms += took_ms
            predictions.update(zip(indices, answers, strict=True))
        ordered = _of_all(self.ranks.gather(predictions), len(examples))
        halved = [size for sizes in self.ranks.gather(halved) for size in sizes]
        return _Round(ordered, self.ranks.total(predict_ms), halved)

    def _answers(self, examples: list[Example], watch: Stopwatch, halved: list[int]) -> tuple[list[Prediction], float]:
        """The predictions of a batch and the ms that they took, kept ones where there are such."""
        if self.kept is not None and (before := self.kept.of([example.id for example in examples])) is not None:
            return before
        answers, took_ms = self._predicted(examples, watch, halved)
        if self.kept is not None:
            self.kept.keep(answers, took_ms)
        return answers, took_ms

    def _predicted(
        self, examples: list[Example], watch: Stopwatch, halved: list[int]
    ) -> tuple[list[Prediction], float]:
        """The predictions of a batch and the ms of the model, in parts where memory runs out."""
        times: list[float] = []

        def predict(part: list[Example]) -> list[Prediction]:
            batch = self.task.batch(self.model, part, train=False)
            watch.restart()
            with self.accelerator.autocast():
                answers = self.task.predict(self.model, batch, part)
            times.append(watch.ms())
            return answers

        if is_split(self.model):  # the processes that share its weights would have to fall back alike
            return predict(examples), sum(times)
        return in_halves(predict, examples, self.model.device, smallest=halved), sum(times)


def _of_all(parts: Sequence[dict[int, Prediction]], count: int) -> list[Prediction]:
    """The predictions of all processes in the order of the examples."""
    found = {index: prediction for part in parts for index, prediction in part.items()}
    if sum(map(len, parts)) != count or len(found) != count:
        raise RuntimeError(f"{sum(map(len, parts))} answers to {len(found)} of {count} examples; each needs one")
    return [found[index] for index in range(count)]
