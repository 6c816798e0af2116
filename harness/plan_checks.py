"""What a plan refuses of the command line: flags and options that do not go together, or that nothing here can serve.

Raises in every function: UsageError, with the way out.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.settings import UsageError

if TYPE_CHECKING:
    import methods
    import tasks
    from harness.checkpoints.own import Saved
    from harness.parallel.launch import Launch
    from harness.plan import CellPlan, TrainOptions


def extras(args: argparse.Namespace, device: str) -> None:
    """Refuse flags that this installation cannot serve."""
    if args.profile:
        from harness import profile

        profile.check(device)
    if args.tensorboard:
        from harness import tensorboard

        tensorboard.check()
    if args.memory_gib is not None and args.executor == "ray":
        raise UsageError("--memory-gib: a node of Ray keeps what --memory-per-cell asks for; name that instead")
    if args.shard is not None and args.tune is not None:
        raise UsageError("--shard: settings of --tune hold for all seeds, which shards would tear apart; drop one")
    for flag, given in (("--profile", args.profile), ("--fresh", args.fresh)):
        if given and (args.gpus or args.workers):
            raise UsageError(f"{flag}: each worker of --gpus or --workers would do it again; drop one of the two")
    if args.gpus and args.device not in (None, "auto", "cuda"):
        raise UsageError(f"--gpus: each run has the GPU that it is given; drop --device {args.device}")


def launched(args: argparse.Namespace, started: Launch, cells: Sequence[CellPlan]) -> None:
    """Refuse what several processes cannot do to one cell."""
    if started.alone:
        return
    for flag, given in (("--isolate", args.isolate), ("--tune", args.tune), ("--profile", args.profile)):
        if given:
            raise UsageError(f"{flag}: not with torchrun, whose processes share each run; drop one of the two")
    if args.executor == "ray":
        raise UsageError("--executor ray gives each run a process of its own; start it without torchrun")
    if args.gpus or args.workers:
        raise UsageError("--gpus and --workers spread runs over processes of their own; start them without torchrun")
    if args.precision == "fp16":
        raise UsageError("--precision fp16: not with torchrun; use bf16")
    for train in {cell.train for cell in cells}:
        if train.batch_size < started.count:
            raise UsageError(
                f"a batch of {train.batch_size} is too small for {started.count} processes; raise --batch-size or "
                "start fewer"
            )
        if started.parallel == "fsdp2" and train.batch_size % (started.count * train.accumulate):
            raise UsageError(
                f"--parallel fsdp2: {started.count} processes with train.accumulate={train.accumulate} must share a "
                f"batch of {train.batch_size} evenly; set another --batch-size"
            )


def trained(
    chosen: Mapping[str, tuple[methods.Method, dict[str, Any]]],
    initial: Mapping[str, Saved],
    trains: Mapping[tuple[str, str], tuple[TrainOptions, Any]],
) -> None:
    """Refuse to evaluate a method as it is before any training, which says nothing about it."""
    for (name, _), (options, _explicit) in trains.items():
        if options.steps == 0 and chosen[name][0].trains and name not in initial:
            raise UsageError(f"train.steps=0 must be at least 1 for {name}, or give --init {name}=DIR to evaluate it")


def divisible(
    on: Mapping[str, tuple[tasks.Task, dict[str, Any]]], trains: Mapping[tuple[str, str], tuple[TrainOptions, Any]]
) -> None:
    """Refuse accumulation for a task whose loss is not the mean over the parts of a batch."""
    for (_, name), (options, _explicit) in trains.items():
        if options.accumulate > 1 and not on[name][0].divisible:
            raise UsageError(
                f"train.accumulate={options.accumulate}: {name} contrasts the examples of a whole batch, which parts "
                "would change; use accumulate=1 and a batch_size that fits"
            )
