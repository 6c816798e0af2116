"""The command line: `python -m harness` and `vltune`. Parses, reports mistakes in one line, and hands over to commands.

Nothing heavy is imported before a command needs it: `--help` and `list` answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from harness import cli_flags as flags
from harness import cli_run, commands, commands_checkpoint, commands_data
from harness import cli_values as values
from harness.download.sources import DATA_SETS
from harness.one_line import one_line, printable
from harness.resume import stop
from harness.settings import UsageError

USAGE, INTERRUPTED, BROKEN_PIPE = 2, stop.INTERRUPTED, 141
# Errors of the system that are about a name or a place that was given, beside missing permissions.
_NAMES_AND_DISKS = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class _Parser(argparse.ArgumentParser):
    """Reports a mistake as one line, without the usage text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see '{self.prog} --help'")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0: done, every cell ok or skipped; 1: some cell failed; 2: bad usage or data, nothing trained; 130: interrupted;
        141: nobody reads the output any more.
    """
    argv = tuple(sys.argv[1:] if argv is None else argv)
    # Of damaged and huge pictures Pillow says a line of its own before it gives up; the error names the file.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        with _sigterm_as_ctrl_c():
            args = parse(argv)
            args.argv = argv
            code = int(args.command(args))
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`); nothing more may be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print("vltune: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        if (line := _out_of_memory(error) or refusal(error)) is None:
            raise
        print(f"vltune: error: {line}", file=sys.stderr)
        return USAGE


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """From the first line to the last; a run that trains takes both signals itself meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _out_of_memory(error: Exception) -> str | None:
    """The one line where memory ran out before or between the cells, such as in loading a backbone."""
    lacking = "more memory"
    if isinstance(error, RuntimeError) and "torch" in sys.modules:
        from harness.out_of_memory import ran_out, wanted

        if not ran_out(error):
            return None
        lacking = wanted(error)
    elif not isinstance(error, MemoryError) and getattr(error, "errno", None) != errno.ENOMEM:
        return None
    return f"out of memory ({lacking} could not be had); give more with --memory-gib, or free some"


def refusal(error: Exception) -> str | None:
    """The one line that tells of a mistake in what was given; None for an error of the program's own."""
    if isinstance(error, PermissionError):
        return printable(f"{error.filename}: {error.strerror}; change its permissions, or name another")
    if isinstance(error, reported()):
        return one_line(error)
    if isinstance(error, OSError) and error.errno in _NAMES_AND_DISKS and error.filename is not None:
        return printable(f"{error.filename}: {error.strerror}; name another")
    return None


def reported() -> tuple[type[Exception], ...]:
    """The mistakes that the library reports itself; their modules are loaded only once something went wrong."""
    import methods
    import tasks
    from harness import backbones, checkpoints, record, store
    from harness.statistics import paired
    from harness.tables import published

    own = (
        record.RecordError,
        store.StoreError,
        backbones.BackboneError,
        checkpoints.CheckpointError,
        paired.Incomparable,
        published.PublishedError,
    )
    return (UsageError, *own, methods.UnknownName, tasks.UnknownName, tasks.DataError)


MINI_TASKS = ("coco_caption", "retrieval", "scienceqa")
NAMED = ("methods", "tasks", "backbones")
TIMED = ("memory-read", "step", "decode", "upkeep", "all")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """What a command line says.

    Raises:
        UsageError: it cannot be understood.
    """
    if odd := [word for word in argv if word.startswith("--") and word.endswith("=--")]:
        # Before Python 3.13 argparse makes an empty list of that.
        raise UsageError(f"{odd[0]}: -- is no value; name one")
    return parser().parse_args(argv)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; each sets `command` to the function that runs it."""
    root = _Parser(prog="vltune", description="Compare methods of efficient vision-language tuning.")
    add = root.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser
    cli_run.add_flags(add("run", help="train and evaluate methods on tasks, then print the leaderboard"))
    _add_leaderboard(add("leaderboard", help="print the tables of all recorded runs"))
    comparing = add("compare", help="test two methods, or two runs, on the same examples")
    comparing.add_argument("a", metavar="A", help="a method's name, a row as tables name it, or a run id")
    comparing.add_argument("b", metavar="B", help="the same")
    comparing.add_argument("--task", metavar="NAME", help="only this task (default: every one that both have)")
    comparing.add_argument(
        "--only", metavar="PART", help="only this part of the examples, such as img: questions with a picture"
    )
    comparing.add_argument("--data-root", type=Path, metavar="DIR", help="with --only: the data that the runs used")
    flags.add_results(comparing)
    comparing.set_defaults(command=commands.compare)
    again = add("reproduce", help="run a recorded cell again and report what differs")
    again.add_argument("run_id", metavar="RUN_ID", help="of a finished run; its beginning will do")
    flags.add_results(again)
    out = Path("results/reproduced")
    again.add_argument(
        "--out", type=Path, default=out, metavar="DIR", help=f"where the new record goes (default: {out})"
    )
    again.set_defaults(command=commands.reproduce)
    doctor = add("doctor", help="say what this machine can run, and how to get what is missing")
    flags.add_results(doctor)
    doctor.set_defaults(command=commands.doctor)
    _add_results_commands(add("results", help="look after a results folder"))
    _add_params(add("params", help="count parameters, without weights"))
    _add_flops(add("flops", help="count the FLOPs of methods at any size, by length of text, without a GPU"))
    _add_bench(
        add(
            "bench",
            help="time the kernels, the training step and decoding against the slow way, and the upkeep of records",
        )
    )
    listing = add("list", help="print the names of methods, tasks or backbones")
    listing.add_argument("what", choices=NAMED, metavar="|".join(NAMED), help="which names")
    listing.set_defaults(command=commands.list_names)
    _add_data(add("data", help="write the mini world's data, download a data set, or check data of your own"))
    _add_backbone(add("backbone", help="pretrain the mini backbone"))
    _add_checkpoint(add("checkpoint", help="read and write the checkpoint formats of the methods' authors"))
    return root


def _add_leaderboard(leaderboard: argparse.ArgumentParser) -> None:
    flags.add_results(leaderboard)
    leaderboard.add_argument("--task", metavar="NAME", help="only this task")
    leaderboard.add_argument(
        "--format", choices=("md", "html", "latex", "csv", "json"), default="md", help="default: md"
    )
    leaderboard.add_argument(
        "--columns",
        type=values.names,
        default=(),
        metavar="NAMES",
        help="comma list of scores and meters (default: all)",
    )
    leaderboard.add_argument("--sort", metavar="NAME", help="by this score or meter, best first")
    leaderboard.add_argument(
        "--data-root",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="data whose prompts and pictures --format html is to show; may be repeated",
    )
    leaderboard.add_argument("--published", action="store_true", help="the papers' own tables too, set apart")
    leaderboard.add_argument("--out", type=Path, metavar="FILE", help="write here instead of printing")
    leaderboard.set_defaults(command=commands.leaderboard)


def _add_results_commands(results: argparse.ArgumentParser) -> None:
    add = results.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser
    check = add("check", help="find records and predictions that are damaged, misplaced or doubled")
    flags.add_results(check)
    check.set_defaults(command=commands.results_check)


def _add_params(params: argparse.ArgumentParser) -> None:
    params.add_argument("--methods", required=True, metavar="NAMES", help="comma list, or all")
    flags.add_backbone(params)
    params.add_argument("--task", metavar="NAME", help="count the task's own parameters too, such as new heads")
    params.add_argument("--format", choices=("md", "json"), default="md", help="default: md")
    params.set_defaults(command=commands.params)


def _add_flops(flops: argparse.ArgumentParser) -> None:
    flops.add_argument("--methods", required=True, metavar="NAMES", help="comma list, or all")
    flags.add_backbone(flops)
    flops.add_argument(
        "--text-tokens",
        dest="lengths",
        type=values.counts,
        default=(64, 128, 256, 512, 1024),
        metavar="LIST",
        help="lengths of the text (default: 64,128,256,512,1024)",
    )
    flops.add_argument(
        "--format",
        choices=("md", "json", "html"),
        default="md",
        help="html: plots (default: md)",
    )
    flops.add_argument("--out", type=Path, metavar="FILE", help="write here instead of printing")
    flops.set_defaults(task=None, command=commands.flops)


def _add_bench(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("what", choices=TIMED, metavar="|".join(TIMED), help="what to time")
    bench.add_argument("--device", metavar="auto|cpu|cuda:N", help="default: auto")
    bench.add_argument("--out", type=Path, metavar="FILE", help="write everything measured as JSON too")
    bench.add_argument("--reduced", action="store_true", help="tiny sizes: shows that all of it runs, not how fast")
    bench.set_defaults(command=commands.bench)


def _add_data(data: argparse.ArgumentParser) -> None:
    add = data.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser
    mini = add("mini", help="write data of the mini world in a task's official format")
    mini.add_argument("--task", choices=MINI_TASKS, default="scienceqa", help="default: scienceqa")
    mini.add_argument("--out", type=Path, metavar="DIR", help="a new or empty folder (default: the cache)")
    for split in ("train", "val", "test"):
        mini.add_argument(
            f"--{split}", type=values.count, metavar="N", help=f"problems or pictures of the {split} split"
        )
    mini.add_argument("--seed", type=values.seed, default=0, metavar="N", help="default: 0")
    mini.set_defaults(command=commands_data.data_mini)
    download = add("download", help="fetch a data set from its official addresses; goes on where it was interrupted")
    download.add_argument("name", choices=tuple(DATA_SETS), metavar="NAME", help=", ".join(DATA_SETS))
    download.add_argument("--data-root", required=True, type=Path, metavar="DIR", help="a folder for it alone")
    download.add_argument("--base-url", metavar="URL", help="take the files, by their names, from this mirror instead")
    download.add_argument(
        "--archive", type=Path, metavar="FILE", help="the pictures of Flickr8k or Flickr30k, which come on request"
    )
    download.set_defaults(command=commands_data.data_download)
    check = add("check", help="read every example of a task's data and report the first mistake")
    check.add_argument("--task", required=True, metavar="NAME")
    check.add_argument("--data-root", required=True, type=Path, metavar="DIR")
    flags.add_set(check, "an option of the task, such as retrieval.split=val; may be repeated")
    check.set_defaults(
        command=commands_data.data_check, backbone=None, llm=None, vision=None, encoder=None, tokenizer=None
    )


def _add_backbone(backbone: argparse.ArgumentParser) -> None:
    add = backbone.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser
    pretrain = add("pretrain", help="make the weights that the repository ships, in half an hour of CPU time")
    pretrain.add_argument("name", choices=("mini",))
    pretrain.add_argument("--out", type=Path, metavar="DIR", help="default: where the shipped weights lie")
    pretrain.add_argument("--seed", type=values.seed, default=0, metavar="N", help="default: 0")
    pretrain.set_defaults(command=commands.backbone_pretrain)


def _add_checkpoint(checkpoint: argparse.ArgumentParser) -> None:
    add = checkpoint.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser
    into = add("import", help="make a folder of ours (format llama: a Hugging Face folder)")
    _add_format(into, source="the authors' file or folder")
    into.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new or empty folder")
    into.add_argument("--method", metavar="NAME", help="default: the format's own")
    flags.add_backbone(into)
    into.set_defaults(command=commands_checkpoint.checkpoint_import)
    back = add("export", help="write a folder of ours in the authors' format")
    _add_format(back, source="a folder that import or run --save made (format llama: a Hugging Face folder)")
    back.add_argument("--out", required=True, type=Path, metavar="PATH", help="a new file or folder")
    back.add_argument(
        "--without-head", action="store_true", help="leave out what a task added, such as retrieval's heads"
    )
    back.set_defaults(command=commands_checkpoint.checkpoint_export)


def _add_format(command: argparse.ArgumentParser, *, source: str) -> None:
    command.add_argument("--format", required=True, metavar="NAME", help="ademvl, beit3, llama, llava, memvp or peft")
    command.add_argument("source", type=Path, metavar="SOURCE", help=source)
