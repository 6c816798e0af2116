"""The one training loop: AdamW on a method's own parameters, linear warm-up, cosine to zero, exact accumulation."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from harness.backbones import FEATURES, cache_folder
from harness.backbones.backbone import Backbone
from harness.meters.speed import Stopwatch
from harness.out_of_memory import CONTRASTIVE, SPLIT, Parts
from harness.parallel.fsdp import clip, is_split, own_part
from harness.parallel.ranks import ALONE, Ranks
from harness.plan import TrainOptions
from harness.progress import note, progress
from harness.resume.course import Course
from harness.resume.keeper import Keeper
from harness.resume.loop import Loop
from harness.resume.randomness import Randomness
from harness.resume.training_state import TrainingState
from methods import Attachment
from tasks import Example, Task

T = TypeVar("T")
R = TypeVar("R")
BUCKET = 16
WARM_UP_STEPS = 5  # allocator, caches and thread pools settle; not part of the step times


class DivergedError(RuntimeError):
    """The loss or a weight stopped being a number; the message names the step."""


@dataclass(frozen=True)
class Step:
    """An optimiser step that is done: its number from 1, its loss, and the learning rate it was taken with."""

    number: int
    loss: float
    learning_rate: float


@dataclass
class TrainResult:
    """What training left behind: the loss of every step, step times without data loading, and samples seen.

    `lengths` are the tokens of every example, which decide what shares a batch; `weights` names what came of it, where
    a keeper has kept that; `parts` is how many parts a batch had in the last step, `cut_at` where
    memory ran out with how many.
    """

    losses: list[float] = field(default_factory=list)
    step_ms: list[float] = field(default_factory=list)
    samples: int = 0
    wall_s: float = 0.0
    lengths: list[int] = field(default_factory=list)
    weights: str | None = None
    parts: int = 0
    cut_at: list[dict[str, int]] = field(default_factory=list)

    @classmethod
    def so_far(cls, kept: TrainingState | None, lengths: list[int]) -> TrainResult:
        """Of the steps that a kept state has behind it."""
        if kept is None:
            return cls(lengths=lengths)
        return cls(
            list(kept.losses),
            list(kept.step_ms),
            kept.samples,
            kept.wall_s,
            lengths,
            parts=kept.parts,
            cut_at=list(kept.cut_at),
        )


def total_steps(examples: int, options: TrainOptions) -> int:
    """Optimiser steps of a run; an incomplete last batch of an epoch is dropped unless it is the only one."""
    if options.steps is not None:
        return options.steps
    return (options.epochs or 0) * max(1, examples // options.batch_size)


def lr_factor(step: int, *, total: int, options: TrainOptions) -> float:
    """Factor on the peak rate at optimiser step `step` (from 0): linear from 0, then cosine to 0.

    Source: the authors' per-iteration schedule, warm-up 2 of 20 epochs.
    """
    warmup = options.warmup * total
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, total - warmup)))


def trained_parameters(model: Backbone, attachment: Attachment) -> dict[str, nn.Parameter]:
    """What training changes, by its name in a checkpoint: the method's parameters and the task's own, after `head.`."""
    head = () if model.head is None else model.head.named_parameters(prefix="head")
    return dict(attachment.named_parameters()) | {name: p for name, p in head if p.requires_grad}


def parameter_groups(trained: Mapping[str, nn.Parameter], options: TrainOptions) -> list[dict[str, object]]:
    """Weight decay on everything but biases and one-dimensional parameters."""
    named = list(trained.items())
    plain = [p for name, p in named if p.ndim <= 1 or name.endswith(".bias")]
    decayed = [p for name, p in named if not (p.ndim <= 1 or name.endswith(".bias"))]
    groups: list[dict[str, object]] = [{"params": decayed, "weight_decay": options.weight_decay}]
    return [*groups, {"params": plain, "weight_decay": 0.0}]


def order(lengths: Sequence[int], batch_size: int, *, steps: int, seed: int) -> Iterator[list[int]]:
    """Indices of each optimiser step: a new seeded permutation every epoch, batches of similar length.

    Each run of `BUCKET` batches of the permutation is sorted by length before it is cut into batches, which saves
    most of the padding; the batches then come in a random order again.
    """
    generator = torch.Generator().manual_seed(seed)
    count, done = len(lengths), 0
    while done < steps:
        shuffled = torch.randperm(count, generator=generator).tolist()[: max(batch_size, count - count % batch_size)]
        batches: list[list[int]] = []
        for start in range(0, len(shuffled), BUCKET * batch_size):
            bucket = sorted(shuffled[start : start + BUCKET * batch_size], key=lengths.__getitem__)
            batches += [bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size)]
        for number in torch.randperm(len(batches), generator=generator).tolist()[: steps - done]:
            done += 1
            yield batches[number]


def ways(
    model: Backbone, options: TrainOptions, examples: Sequence[Example] = (), *, name: str | None = None
) -> ExitStack:
    """Set up how the model is to be run in training, until the stack is closed.

    Features of the examples' pictures are computed once, where training does not change them; under a name they outlive
    the process, see `Backbone.keep_features`.

    Raises:
        BackboneError: the backbone cannot run in such a way.
    """
    with ExitStack() as stack:
        if options.checkpointing:
            stack.callback(model.recompute().remove)
        if options.compile:
            stack.callback(model.compile().remove)
        if pictures := {example.image for example in examples if example.image is not None}:
            folder = cache_folder() / FEATURES
            try:
                stack.callback(model.keep_features(folder, pictures=len(pictures), name=name).remove)
            except OSError as error:
                note(f"{folder}: cannot be written ({error.strerror}), so features of pictures are computed every time")
        return stack.pop_all()


def ahead(make: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
    """Each item with what `make` makes of it, while one thread already makes the next one.

    One at a time and in order, so that whatever `make` draws at random is drawn in order too.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader") as loader:
        waiting: tuple[T, Future[R]] | None = None
        for item in items:
            following = (item, loader.submit(make, item))
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def train(
    model: Backbone,
    attachment: Attachment,
    task: Task,
    examples: Sequence[Example],
    options: TrainOptions,
    *,
    accelerator: Accelerator,
    seed: int,
    label: str,
    after_step: Callable[[Step], None] | None = None,
    keeper: Keeper | None = None,
    ranks: Ranks = ALONE,
) -> TrainResult:
    """Train the attachment's parameters, and the task's own, in place.

    Each step takes `batch_size` examples in `accumulate` parts; a part counts by its `Task.weight` (labelled tokens),
    so the gradient is that of the whole batch. `after_step` is told of each step once it is done, outside its time;
    what it raises ends the training. With a `keeper` the training goes on from the state that it has kept, on a CPU bit
    by bit as if it had never stopped; of the steps before, `after_step` is told at once. Of several `ranks` each
    computes its share of every batch, and all end with the same weights.

    Raises:
        DivergedError: the loss, or a weight that would be kept, is NaN or infinite.
        KeyboardInterrupt: the keeper was asked to stop; everything so far is kept.
    """
    set_seed(seed + ranks.rank)
    steps = total_steps(len(examples), options)
    trained = trained_parameters(model, attachment)
    optimizer = _optimizer(trained, options, accelerator)
    attachment.train(True)
    watch = Stopwatch(model.device)
    lengths = [model.text_length(prompt, answer) for prompt, answer in task.texts(examples, train=True)]

    finite = functools.partial(_check_finite, trained, ranks=ranks, steps=steps)
    course = Course(Loop(trained, optimizer, accelerator), keeper, Stopwatch(model.device), finite)
    result = TrainResult.so_far(course.kept, lengths)
    first = len(result.losses)
    cut = _cut(model, task, options, result, label)
    step = _Stepping(model, task, examples, options, trained, optimizer, accelerator, ranks, cut, steps)
    tell = _telling(after_step, step.rate, result.losses)
    batches = itertools.islice(order(lengths, options.batch_size, steps=steps, seed=seed), first, None)
    loaded = _loaded(functools.partial(_made, course, step), batches, model.device)
    with course.stepping(), model.shared(ranks):
        for number, (indices, (before, parts)) in enumerate(
            progress(loaded, total=steps, first=first, label=label, units="steps"), start=first
        ):
            course.between(result, before)
            watch.restart()
            loss = step.take(parts, indices, number=number)
            result.parts = step.cut.count
            _check_loss(loss, number + 1, steps, course.last_good)
            result.losses.append(loss)
            if number - first >= min(WARM_UP_STEPS, steps - first - 1):
                result.step_ms.append(watch.ms())
            result.samples += len(indices)
            tell(number, loss)
        course.end(result)
    attachment.train(False)
    return result


def _optimizer(
    trained: Mapping[str, nn.Parameter], options: TrainOptions, accelerator: Accelerator
) -> torch.optim.Optimizer:
    groups = parameter_groups(trained, options)
    made = torch.optim.AdamW(groups, lr=options.peak_lr, betas=(options.beta1, options.beta2))
    return accelerator.prepare(made)  # type: ignore[no-any-return]


def _cut(model: Backbone, task: Task, options: TrainOptions, result: TrainResult, label: str) -> Parts:
    """Into how many parts a batch is cut, and whether memory that runs out may cut it further."""
    uncut = SPLIT if is_split(model) else None if task.divisible else CONTRASTIVE
    count = result.parts or options.accumulate
    return Parts(count, uncut, model.device, result.cut_at, tell=lambda line: note(f"{label}: {line}"))


def _telling(
    after_step: Callable[[Step], None] | None, rate: Callable[[int], float], losses: Sequence[float]
) -> Callable[[int, float], None]:
    """What tells `after_step` of each step, from 0; the steps whose losses are known already it tells of at once."""

    def tell(number: int, loss: float) -> None:
        if after_step is not None:
            after_step(Step(number + 1, loss, rate(number)))

    for number, loss in enumerate(losses):
        tell(number, loss)
    return tell


def _made(course: Course, step: _Stepping, indices: list[int]) -> tuple[Randomness | None, list[Any]]:
    """The batch of a step, and the random streams as they were before it was made."""
    return course.draws(), step.parts(indices)


def _loaded(make: Callable[[T], R], batches: Iterable[T], device: torch.device) -> Iterable[tuple[T, R]]:
    # On a CPU torch's operators in a second thread take the cores from the step: on two cores it took twice as long.
    return ahead(make, batches) if device.type == "cuda" else ((chosen, make(chosen)) for chosen in batches)


def _check_loss(loss: float, step: int, steps: int, last_good: Callable[[], str]) -> None:
    if not math.isfinite(loss):
        raise DivergedError(f"the loss is {loss} at step {step} of {steps}; lower train.lr{last_good()}")


def _check_finite(trained: Mapping[str, nn.Parameter], step: int, last_good: str, *, ranks: Ranks, steps: int) -> None:
    """The loss tells of an update that broke the weights only at the next step, and of the last update never."""
    broken = sum(int((~torch.isfinite(own_part(parameter.detach()))).sum()) for parameter in trained.values())
    if ranks.total(broken):
        raise DivergedError(
            f"a trained weight is not a finite number after step {step} of {steps}; lower train.lr{last_good}"
        )


@dataclass(frozen=True)
class _Stepping:
    """What every optimiser step of a training needs; there are `steps` of them."""

    model: Backbone
    task: Task
    examples: Sequence[Example]
    options: TrainOptions
    trained: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    ranks: Ranks
    cut: Parts
    steps: int

    def rate(self, number: int) -> float:
        """The learning rate of a step, from 0."""
        return self.options.peak_lr * lr_factor(number, total=self.steps, options=self.options)

    def parts(self, indices: Sequence[int]) -> list[Any]:
        """This process's share of a batch, in the parts that are computed one after the other."""
        share = [self.examples[i] for i in self.ranks.share(indices)]
        return micro_batches(self.model, self.task, share, self.cut.count)

    def take(self, parts: list[Any], indices: Sequence[int], *, number: int) -> float:
        """Step `number`, from 0, on the batch of all processes; its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(number)
        total = None if self.ranks.alone else self.ranks.total(sum(map(self.task.weight, parts)))
        loss = self.cut.compute(
            parts,
            step=number + 1,
            examples=len(self.ranks.share(indices)),
            compute=functools.partial(
                forward_backward, self.model, self.task, accelerator=self.accelerator, total=total
            ),
            again=functools.partial(self.parts, indices),
            clear=functools.partial(self.optimizer.zero_grad, set_to_none=True),
        )
        self.ranks.sum_gradients(self.trained.values())
        if self.options.clip_norm is not None:
            self.accelerator.unscale_gradients(self.optimizer)
            clip(list(self.trained.values()), self.options.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return self.ranks.total(loss)


def micro_batches(model: Backbone, task: Task, examples: Sequence[Example], accumulate: int) -> list[Any]:
    """The examples of one optimiser step as the `accumulate` batches that are computed one after the other."""
    size = math.ceil(len(examples) / accumulate)
    return [task.batch(model, examples[i : i + size], train=True) for i in range(0, len(examples), size)]


def forward_backward(
    model: Backbone, task: Task, parts: Sequence[Any], *, accelerator: Accelerator, total: float | None = None
) -> float:
    """The loss of one optimiser step; its gradients are added to those of the parameters.

    `total` is the weight of the whole batch, if these parts are a share of it.
    """
    weights = [task.weight(part) for part in parts]
    loss = 0.0
    for part, weight in zip(parts, weights, strict=True):
        with accelerator.autocast():
            share = task.loss(model, part) * (weight / (total or sum(weights)))
        if share.requires_grad:  # not where a projector alone is trained and no example has a picture
            accelerator.backward(share)
        loss += float(share.detach())
    return loss
