"""The flags of `run`, in groups by what they are about."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import cli_flags as flags
from harness import cli_values as values
from harness import commands
from harness.parallel import shard
from harness.space import SHARE


def add_flags(run: argparse.ArgumentParser) -> None:
    """All flags of `run`, in the order in which `--help` shows them."""
    _add_compared(run)
    _add_length(run)
    _add_tuning(run)
    _add_machine(run)
    _add_kept(run)
    _add_process(run)
    _add_cluster(run)
    _add_spread(run)
    _add_resuming(run)
    _add_watching(run)
    run.set_defaults(command=commands.run)


def _add_compared(run: argparse.ArgumentParser) -> None:
    """What is compared: methods and tasks on a backbone, the data, the protocol, the seeds."""
    run.add_argument("--methods", metavar="NAMES", help="comma list, or all")
    run.add_argument("--task", metavar="NAMES", help="comma list, or all")
    run.add_argument(
        "--plan", type=Path, metavar="FILE", help="a study written down in TOML; flags given beside it stand over it"
    )
    flags.add_backbone(run)
    run.add_argument("--weights", choices=("pretrained", "random"), help="random ones never rank by accuracy")
    run.add_argument("--data-root", type=Path, metavar="DIR", help="your data (default: generated, for backbone mini)")
    run.add_argument(
        "--protocol", default="uniform", metavar="NAME", help="uniform (default), paper-ademvl, paper-memvp, paper-mwa"
    )
    run.add_argument("--seeds", type=values.seeds, default=(0,), metavar="LIST", help="such as 0,1,2 (default: 0)")


def _add_length(run: argparse.ArgumentParser) -> None:
    """How long is trained, and on how many examples of which size."""
    length = run.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=values.count, metavar="N", help="default: the backbone's recipe")
    length.add_argument(
        "--steps", type=values.whole, metavar="N", help="optimiser steps instead of epochs; 0 with --init"
    )
    run.add_argument("--batch-size", type=values.count, metavar="N", help="examples per optimiser step")
    run.add_argument(
        "--train-limit", type=values.count, metavar="N", help="use a fixed subset of the training examples"
    )
    run.add_argument("--eval-limit", type=values.count, metavar="N", help="use a fixed subset of the test examples")
    run.add_argument(
        "--text-tokens",
        type=values.count,
        metavar="N",
        help="make every text exactly N tokens long, to measure what that costs; for --weights random",
    )


def _add_tuning(run: argparse.ArgumentParser) -> None:
    """How settings are searched before the run."""
    run.add_argument(
        "--tune",
        type=values.count,
        metavar="N",
        help="choose each trained method's settings from N short trials on the validation split, then run it with them",
    )
    run.add_argument(
        "--tune-seconds", type=values.count, metavar="S", help="begin no trial of a method on a task after that"
    )
    run.add_argument(
        "--tune-share", type=values.share, metavar="X", help=f"of a run's steps for each trial (default: {SHARE})"
    )


def _add_machine(run: argparse.ArgumentParser) -> None:
    """What it computes with."""
    run.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="default: the backbone's recipe")
    run.add_argument("--device", metavar="auto|cpu|cuda:N", help="default: auto")
    run.add_argument("--kernels", choices=("auto", "reference", "triton"), help="default: auto")


def _add_kept(run: argparse.ArgumentParser) -> None:
    """What is written, and what was trained before."""
    flags.add_results(run)
    run.add_argument("--save", action="store_true", help="keep what was trained, below adapters/ of the results")
    run.add_argument(
        "--init",
        action="append",
        default=[],
        metavar="METHOD=DIR",
        help="start from a saved or imported checkpoint; with --steps 0 it is evaluated as it is",
    )


def _add_process(run: argparse.ArgumentParser) -> None:
    """The process of each run."""
    run.add_argument(
        "--isolate",
        action=argparse.BooleanOptionalAction,
        help="each run in a process of its own, so that its memory is its own (default: on a GPU)",
    )
    run.add_argument(
        "--memory-gib",
        type=values.positive,
        metavar="N",
        help="most memory of each process; where it runs out, batches are cut (Linux; default: the machine's)",
    )


def _add_cluster(run: argparse.ArgumentParser) -> None:
    """A part of the matrix, or nodes of a cluster."""
    run.add_argument("--shard", type=shard.parse, metavar="I/N", help="only cells I, I+N, I+2N, ... of the matrix")
    run.add_argument(
        "--executor", choices=("local", "ray"), default="local", help="ray: each run on a node of a Ray cluster"
    )
    run.add_argument("--ray-address", metavar="HOST:PORT", help="of the cluster (default: the one that runs here)")
    run.add_argument(
        "--cpus-per-cell",
        type=values.count,
        metavar="N",
        help="cores, and so threads (default: those of the smallest node)",
    )
    run.add_argument("--memory-per-cell", type=values.positive, metavar="GIB", help="that its node must have left")


def _add_spread(run: argparse.ArgumentParser) -> None:
    """Several GPUs or processes of this machine."""
    spread = run.add_mutually_exclusive_group()
    spread.add_argument(
        "--gpus", type=values.gpus, default=(), metavar="LIST", help="such as 0,1,2,3: a run on each at a time"
    )
    spread.add_argument(
        "--workers", type=values.count, metavar="N", help="so many runs at a time, which share the cores"
    )
    run.add_argument(
        "--parallel",
        choices=("ddp", "fsdp2"),
        help="under torchrun: each process holds the whole backbone (ddp, the default) or a part of every layer",
    )
    run.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)


def _add_resuming(run: argparse.ArgumentParser) -> None:
    """What is run again, and what an interrupted training goes on from."""
    run.add_argument(
        "--fresh", action="store_true", help="run cells again that are recorded already, and unfinished ones anew"
    )
    run.add_argument(
        "--checkpoint-minutes",
        type=values.positive,
        default=1.0,
        metavar="M",
        help="keep the state of a training every M minutes, so that it can go on after a crash (default: 1)",
    )
    run.add_argument("--checkpoint-steps", type=values.count, metavar="N", help="and every N steps")


def _add_watching(run: argparse.ArgumentParser) -> None:
    """What else is written down of a training."""
    run.add_argument(
        "--profile",
        action="store_true",
        help="profile a few more steps of each cell once it is measured: a trace for TensorBoard below profiles/ of "
        "the results, and a table of the ten operators that take most time; implies --fresh",
    )
    run.add_argument(
        "--tensorboard",
        action="store_true",
        help="write loss and learning rate of every step below tensorboard/ of the results while a cell trains, then "
        "its scores and meters",
    )
