"""`bench step`: how much of a training's time the harness itself takes, beside model, loader and optimiser."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

from harness.bench.result import Case, Row, below
from harness.bench.step import SETTINGS, conditions, load, method_for, text_batch
from harness.plan import TrainOptions
from harness.record import distribution, unavailable
from harness.resume.keeper import Keeper
from harness.train import TrainResult, train
from methods import Batch
from tasks import Example, Metric, Prediction, Task

P = ParamSpec("P")
R = TypeVar("R")
STEPS = 30


@dataclass
class Clock:
    """Seconds spent in what it wraps."""

    spent_s: float = 0.0

    def around(self, call: Callable[P, R]) -> Callable[P, R]:
        """The same call, on the clock."""

        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            started = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.spent_s += time.perf_counter() - started

        return timed


@dataclass(frozen=True, kw_only=True)
class OneBatch(Task):
    """The same ready batch at every step; its loss is timed."""

    made: Batch
    clock: Clock = field(default_factory=Clock)

    def examples(self, split: Literal["train", "val", "test"], root: Path, *, limit: int | None) -> list[Example]:
        """See `Task.examples`."""
        return [Example(str(number), None) for number in range(len(self.made.input_ids))]

    def texts(self, examples: Sequence[Example], *, train: bool) -> list[tuple[str, str]]:
        """See `Task.texts`."""
        return [("what is it?", "a cat")] * len(examples)

    def batch(self, model: Any, examples: Sequence[Example], *, train: bool) -> Batch:
        """See `Task.batch`."""
        return self.made

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """See `Task.loss`."""
        return self.clock.around(model.loss)(batch)  # type: ignore[no-any-return]

    def predict(self, model: Any, batch: Any, examples: Sequence[Example]) -> list[Prediction]:
        """See `Task.predict`."""
        return []

    def score(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, Metric]:
        """See `Task.score`."""
        return {}


class _TimedAccelerator(Accelerator):  # type: ignore[misc]
    """Accelerate with a clock on the backward pass and on the optimiser."""

    def __init__(self, clock: Clock, **options: Any) -> None:
        super().__init__(**options)
        self._clock = clock

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        self._clock.around(super().backward)(loss, **kwargs)

    def prepare(self, *args: Any, **kwargs: Any) -> Any:
        optimizer = super().prepare(*args, **kwargs)
        optimizer.step = self._clock.around(optimizer.step)
        optimizer.zero_grad = self._clock.around(optimizer.zero_grad)
        return optimizer


def run(device: torch.device, *, reduced: bool) -> Case:
    """Train `mini` on one batch and subtract what was spent in the model and the optimiser."""
    clock, steps = Clock(), 3 if reduced else STEPS
    accelerator = _TimedAccelerator(clock, cpu=device.type == "cpu")
    result, said = train_on_one_batch(device, steps=steps, accelerator=accelerator, clock=clock)
    share = 100 * (1 - clock.spent_s / result.wall_s)
    row = Row("train_step", distribution(result.step_ms, "ms").model_dump(), unavailable("not read").model_dump())
    goals = [] if reduced else [below("time outside model, loader and optimiser", share, 3, "%")]
    return Case("the harness's own share of a training", said, [row], goals, (), {"harness_per_cent": share})


def train_on_one_batch(
    device: torch.device, *, steps: int, accelerator: Accelerator, clock: Clock, keeper: Keeper | None = None
) -> tuple[TrainResult, dict[str, object]]:
    """Train ADEM-VL on `mini` on the same batch at every step; what came of it, and what a table says of it.

    The model's forward passes are on the clock.
    """
    model = load(SETTINGS["reduced"], device, "fp32")
    attachment = method_for(model).attach(model, 0)
    task = OneBatch(made=text_batch(model, 32, 64), clock=clock)
    try:
        result = train(
            model,
            attachment,
            task,
            task.examples("train", Path(), limit=None),
            TrainOptions(steps=steps, batch_size=32, lr=1e-3),
            accelerator=accelerator,
            seed=0,
            label="bench",
            keeper=keeper,
        )
    finally:
        attachment.detach()
    return result, conditions(model.name, device, B=32, T=64, steps=steps)
