"""The `data ...` commands: write the mini world's data, download a data set, check data of one's own."""

from __future__ import annotations

import argparse
import importlib
import sys
from functools import partial

import tasks
from harness import backbones
from harness.settings import UsageError, parse_overrides, suggest

CHECKED_SIZE = 32
"""Pixels per side that `data check` decodes pictures to: nothing looks at them."""


def data_mini(args: argparse.Namespace) -> int:
    """`data mini`: write the mini world's data set, and print where it lies."""
    writer = importlib.import_module(f"tasks.mini.{args.task}")
    given = {split: getattr(args, split) for split in writer.DEFAULT_SIZES}
    sizes = {split: size for split, size in given.items() if size is not None}
    if args.out is None:
        print(writer.ensure(backbones.cache_folder() / "data", seed=args.seed, **sizes))
        return 0
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UsageError(f"--out {args.out}: is not empty; name a new folder")
    try:
        writer.write(args.out, seed=args.seed, **(writer.DEFAULT_SIZES | sizes))
    except OSError as error:
        raise UsageError(f"--out {args.out}: cannot be written ({error.strerror}); name another folder") from None
    print(args.out)
    return 0


def data_download(args: argparse.Namespace) -> int:
    """`data download`: 1 when a file cannot be had, or pictures have yet to be asked for."""
    from harness.download import DownloadError, check, folder, web
    from harness.download.sources import DATA_SETS

    data_set, root = DATA_SETS[args.name], args.data_root
    if args.base_url is not None and (problem := web.problem_with(args.base_url)):
        raise UsageError(f"--base-url: {problem}")
    if args.archive is not None and data_set.on_request is None:
        raise UsageError(f"--archive: all of {data_set.name} is fetched from its addresses; drop it")
    if args.archive is not None and not args.archive.is_file():
        raise UsageError(f"--archive {args.archive}: no such file; name the one that you were given")
    say = partial(print, flush=True)
    try:
        folder.download(folder.Request(data_set, root, args.base_url, args.archive, say))
    except DownloadError as error:
        print(f"vltune: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("what was fetched stays; the same command goes on from there", file=sys.stderr)
        raise
    if lacking := check.lacking(data_set, root):
        print(f"vltune: error: {lacking}", file=sys.stderr)
        return 1
    print(check.next_steps(data_set, root))
    return 0


def data_check(args: argparse.Namespace) -> int:
    """`data check`: hold what was downloaded against its record, then read every split as a run would.

    A run needs `train` and the task's own `split`; the third may be missing, such as COCO's test captions, which nobody
    has published.
    """
    task = _checked_task(args)
    from harness.download import check

    home = args.data_root / getattr(task, "folder", "")
    verified = check.verify(args.task, home)
    try:
        for split in check.SPLITS:
            try:
                examples = task.examples(split, args.data_root, limit=None)
            except tasks.NoSplit:
                if split in ("train", task.split):
                    raise
                print(f"{split}: none")
                continue
            task.prepare(examples, image_size=CHECKED_SIZE)
            pictures = sum(example.image is not None for example in examples)
            print(f"{split}: {len(examples)} examples, {pictures} with a picture")
    except tasks.DataError as error:
        remedy = check.how_to_get(args.task, home, error=str(error))
        raise tasks.DataError(f"{error}; {remedy}" if remedy else str(error)) from None
    for line in verified:
        print(line)
    return 0


def _checked_task(args: argparse.Namespace) -> tasks.Task:
    """The task of `data check`, with what `--set` says of it."""
    if args.task not in (known := sorted(tasks.names())):
        raise UsageError(f"unknown task {args.task!r}; {suggest(args.task, known)}")
    if odd := [scope for scope in parse_overrides(args.set) if scope != args.task]:
        raise UsageError(f"--set {odd[0]}: data check reads {args.task} alone; drop this --set")
    from harness import plan

    task = plan.build_task(args)
    if task is None:
        raise RuntimeError(f"no task named {args.task}")
    return task
