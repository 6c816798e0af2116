"""FLOPs of a training step and of a prediction, per sample, counted on a few examples once all else is measured.

Counted are the products of matrices (linear layers, convolutions, attention, reads of a memory), a multiplication and
its addition as two FLOPs; not elementwise work, norms, softmax and the optimiser. docs/meters.md has the definitions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy
import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from harness.backbones import decoding
from harness.backbones.backbone import Backbone
from harness.one_line import named
from harness.plan import TrainOptions
from harness.record import Meter, scalar, unavailable
from harness.train import forward_backward, micro_batches, order, total_steps, trained_parameters, ways
from methods import Attachment
from tasks import Example, Prediction, Task

PREDICTED = 4
"""Examples that are predicted to be counted."""

_KERNELS = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")


def training(
    model: Backbone,
    attachment: Attachment,
    task: Task,
    examples: Sequence[Example],
    options: TrainOptions,
    *,
    accelerator: Accelerator,
    seed: int,
    lengths: Sequence[int],
) -> Meter:
    """FLOPs per sample of one optimiser step, forward and backward; parameters and random streams stay as they are.

    Every picture goes through the vision tower, though a run may keep its features; what `train.checkpointing` computes
    again counts; `train.compile` changes nothing.

    Args:
        lengths: tokens of every example, see `harness.train.TrainResult`.
        The others are those of the run.
    """
    chosen = [examples[i] for i in typical(lengths, [e.image is not None for e in examples], options, seed=seed)]

    def step() -> None:
        parts = micro_batches(model, task, chosen, options.accumulate)
        forward_backward(model, task, parts, accelerator=accelerator)

    try:
        # Compiled code is opaque to the counter.
        with _in_training(attachment), ways(model, dataclasses.replace(options, compile=False)):
            return _reading(model, lambda: count(step) / len(chosen))
    finally:
        for parameter in trained_parameters(model, attachment).values():
            parameter.grad = None


def prediction(
    model: Backbone,
    task: Task,
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
    *,
    accelerator: Accelerator,
) -> Meter:
    """FLOPs of `Task.predict` at batch 1, the mean over all examples as estimated from up to `PREDICTED` of them.

    Args:
        predictions: of all examples, in their order; they tell which examples take long to decode.
        The others are those of the run.
    """

    def predict(chosen: Sequence[Example]) -> None:
        for example in chosen:
            batch = task.batch(model, [example], train=False)
            with torch.inference_mode(), accelerator.autocast():
                task.predict(model, batch, [example])

    def mean() -> float:
        groups = spread(task, examples, predictions)
        return sum(share * count(partial(predict, chosen)) / len(chosen) for share, chosen in groups)

    return _reading(model, mean)


def typical(lengths: Sequence[int], pictured: Sequence[bool], options: TrainOptions, *, seed: int) -> list[int]:
    """The step of the first epoch whose width and number of pictures come nearest to the epoch's means.

    Returns:
        Indices of its examples.
    """
    an_epoch = dataclasses.replace(options, epochs=1, steps=None)
    steps = min(total_steps(len(lengths), options), total_steps(len(lengths), an_epoch))
    batches = list(order(lengths, options.batch_size, steps=steps, seed=seed))
    widths = [max(lengths[i] for i in batch) for batch in batches]
    pictures = [sum(pictured[i] for i in batch) for batch in batches]
    width, count = max(1.0, statistics.fmean(widths)), max(1.0, statistics.fmean(pictures))
    apart = [abs(w - width) / width + abs(p - count) / count for w, p in zip(widths, pictures, strict=True)]
    return batches[apart.index(min(apart))]


def spread(
    task: Task, examples: Sequence[Example], predictions: Sequence[Prediction]
) -> list[tuple[float, list[Example]]]:
    """Examples of all lengths with a picture, and without: the share of all examples that each group stands for.

    Lengths are characters of prompt and output.
    """
    prompts = [prompt for prompt, _ in task.texts(examples, train=False)]
    characters = [len(prompt) + len(made.output) for prompt, made in zip(prompts, predictions, strict=True)]
    ranked = sorted(range(len(examples)), key=lambda i: (characters[i], examples[i].id))
    both = ([i for i in ranked if examples[i].image is not None], [i for i in ranked if examples[i].image is None])
    groups = [group for group in both if group]
    chosen = []
    for group in groups:
        number = min(PREDICTED // len(groups), len(group))
        places = [(2 * place + 1) * len(group) // (2 * number) for place in range(number)]
        chosen.append((len(group) / len(examples), [examples[group[place]] for place in places]))
    return chosen


def count(run: Callable[[], object]) -> int:
    """FLOPs of whatever `run` computes, its backward passes included."""
    with FlopCounterMode(display=False, custom_mapping=dict(formulas())) as counter:
        run()
    total: int = counter.get_total_flops()
    return total


def _reading(model: Backbone, mean: Callable[[], float]) -> Meter:
    try:
        with _random_streams_kept(model.device), _steps_launched():
            return scalar(round(mean()), "FLOPs")
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not cost a finished run its record
        said = named(error)
        return unavailable(f"FLOPs could not be counted: {said}")


@contextlib.contextmanager
def _in_training(attachment: Attachment) -> Iterator[None]:
    attachment.train(True)
    try:
        yield
    finally:
        attachment.train(False)


@contextlib.contextmanager
def _random_streams_kept(device: torch.device) -> Iterator[None]:
    """Take back every draw of the block: dropout, augmentation."""
    python, array = random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        numpy.random.set_state(array)


@contextlib.contextmanager
def _steps_launched() -> Iterator[None]:
    """Launch every step of decoding by itself: no counter sees what a recorded CUDA graph replays."""
    before, decoding.CAPTURE_FROM = decoding.CAPTURE_FROM, sys.maxsize
    try:
        yield
    finally:
        decoding.CAPTURE_FROM = before


def formulas() -> Mapping[Any, Callable[..., int]]:
    """Attention counted alike by all of torch's kernels, of which it leaves out the CPU's."""
    aten = torch.ops.aten
    forward = {getattr(aten, f"_scaled_dot_product_{name}"): _attention for name in _KERNELS}
    return forward | {getattr(aten, f"_scaled_dot_product_{name}_backward"): _attention_backward for name in _KERNELS}


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    """Two products over every query and key, those that a mask hides included: kernels skip them or not."""
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention_backward(
    grad: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any
) -> int:
    """Four products; scores that a kernel computes again are not counted, so that every kernel counts the same."""
    return 2 * _attention(query, key, value)
