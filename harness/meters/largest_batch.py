"""Throughput of prediction at the largest batch that fits on a GPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch

from harness.backbones.backbone import Backbone
from harness.meters.speed import Stopwatch
from harness.one_line import named
from harness.record import Meter, scalar, unavailable
from tasks import Example, Task

METERS = ("largest_batch", "infer_ms_per_sample_largest_batch")
LIMIT = 1024
"""No batch is larger: by then the throughput has long stopped growing."""

_ON_CPU = "on a CPU a batch that does not fit ends the process, so none is looked for"


@torch.inference_mode()
def readings(model: Backbone, task: Task, examples: Sequence[Example]) -> dict[str, Meter]:
    """The largest power of two of examples that `Task.predict` takes at once, and its milliseconds per sample.

    The split's examples in their order, over again if they are too few.
    """
    if model.device.type != "cuda":
        return dict.fromkeys(METERS, unavailable(_ON_CPU))
    try:
        return as_meters(double(_prediction(model, task, examples)))
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not cost a finished run its record
        said = named(error)
        return dict.fromkeys(METERS, unavailable(f"batches could not be tried: {said}"))


def _prediction(model: Backbone, task: Task, examples: Sequence[Example]) -> Callable[[int], float]:
    """Predicts so many examples; returns the milliseconds that took."""
    watch = Stopwatch(model.device)

    def predict(size: int) -> float:
        chosen = list(itertools.islice(itertools.cycle(examples), size))
        batch = task.batch(model, chosen, train=False)
        task.predict(model, batch, chosen)  # warms up: kernels are chosen by shape
        watch.restart()
        task.predict(model, batch, chosen)
        return watch.ms()

    return predict


def double(predict: Callable[[int], float]) -> tuple[int, float] | None:
    """The largest power of two up to `LIMIT` that fits, and what `predict` gave for it; None if not even one does."""
    best, size = None, 1
    while size <= LIMIT:
        try:
            best = (size, predict(size))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        size *= 2
    return best


def as_meters(best: tuple[int, float] | None) -> dict[str, Meter]:
    """What `double` found, as meters of a record."""
    if best is None:
        return dict.fromkeys(METERS, unavailable("one sample does not fit into memory"))
    size, ms = best
    return {
        "largest_batch": scalar(size, "samples"),
        "infer_ms_per_sample_largest_batch": scalar(ms / size, "ms"),
    }
