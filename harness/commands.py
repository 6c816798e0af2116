"""What each command does: imports what it needs, calls the library, prints the answer. Returns the exit code."""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import methods
import tasks
from harness import backbones, checkpoints
from harness.cluster.options import options
from harness.settings import UsageError, parse_overrides, suggest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.plan import Plan
    from harness.published import PublishedTable
    from harness.record import Record

CHECKED_SIZE = 32
"""Pixels per side that `data check` decodes pictures to: nothing looks at them."""


def run(args: argparse.Namespace) -> int:
    """`run`: plan every cell, then run those without a record."""
    if args.plan is not None:
        return _run_plan(args)
    from harness import plan

    # Planned before anything heavy is imported, so that mistakes are answered at once.
    return _run_planned(args, plan.build(args))


def _run_plan(args: argparse.Namespace) -> int:
    """Every command of a plan file. All are planned before the first is run; data and weights are read by each in turn."""
    from harness import cli, plan, plan_file

    study = plan_file.read(args.plan)
    commands = plan_file.arguments(study, args.argv, cli.parse)
    planned = [plan.build(command) for command in commands]
    cells = sum(len(one.cells) for one in planned)
    print(f"{study.title}\ndata: {study.data}\nhardware: {study.hardware}, {study.hours:g} hours")
    code = 0
    for number, (command, one) in enumerate(zip(commands, planned, strict=True), start=1):
        print(
            f"\ncommand {number} of {len(planned)} ({cells} cells in all): vltune {shlex.join(command.argv)}",
            flush=True,
        )
        code = max(code, _run_planned(command, one))
        if code == cli.INTERRUPTED:
            break
    return code


def _run_planned(args: argparse.Namespace, planned: Plan) -> int:
    if not planned.cells:
        print(f"{args.shard} of the matrix has no cell: nothing to run")
        return 0
    from harness.run import execute, execute_on_ray, execute_spread

    if (cluster := options(args)) is not None:
        return execute_on_ray(planned, cluster)
    if args.gpus or args.workers:
        return execute_spread(planned, gpus=args.gpus, workers=args.workers)
    return execute(planned)


def leaderboard(args: argparse.Namespace) -> int:
    """`leaderboard`: the tables of all records below a results folder."""
    if not args.results.is_dir():
        raise UsageError(f"--results {args.results}: no such folder; 'vltune run' makes it")
    _check_ending(args)
    text = _page(args) if args.format == "html" else _tables(args)
    if args.out is None:
        print(text.rstrip("\n"))
    else:
        try:
            args.out.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--out {args.out}: cannot be written ({error.strerror}); name another file") from None
    runs = args.results / "runs"
    if not any(runs.rglob("*.json")):
        where = f"--results names the folder that holds {runs.name}/ (ours: results/reference)"
        print(f"vltune: {runs} holds no record; {where}", file=sys.stderr)
    return 0


def _of_task(name: str | None, records: list[Record], papers: Sequence[PublishedTable] = ()) -> list[Record]:
    """The records of one task, or all; the name may be one that only records or papers' tables have."""
    if name is None:
        return records
    known = {*tasks.names(), *(record.cell.task for record in records), *(table.task for table in papers)}
    if name not in known:
        raise UsageError(f"unknown task {name!r}; {suggest(name, sorted(known))}")
    return [record for record in records if record.cell.task == name]


def _shown(args: argparse.Namespace) -> tuple[list[Record], list[PublishedTable]]:
    """What `leaderboard` shows: records, and the papers' tables if they were asked for."""
    from harness.store import Store

    records, papers = Store(args.results).read(), _published(args)
    found = _of_task(args.task, records, papers)
    return found, [table for table in papers if args.task in (None, table.task)]


def _check_ending(args: argparse.Namespace) -> None:
    """Refuse a file whose ending promises another format."""
    endings = {".html": "html", ".csv": "csv", ".json": "json", ".tex": "latex"}
    promised = None if args.out is None else endings.get(args.out.suffix.lower())
    if promised not in (None, args.format):
        raise UsageError(f"--out {args.out}: would hold {args.format}; add --format {promised} or name another file")


def _tables(args: argparse.Namespace) -> str:
    if args.columns and args.format in ("csv", "json"):
        raise UsageError(f"--columns: {args.format} holds every column; drop one of the two")
    if args.data_root:
        raise UsageError("--data-root: the report of --format html shows examples; drop it")
    from harness import published_tables
    from harness.example_scores import reader
    from harness.leaderboard import UnknownColumn, View, render
    from harness.store import Store

    (records, papers), view = _shown(args), View(args.task, tuple(args.columns), args.sort)
    rows = published_tables.rows(papers)
    try:
        text = render(records, format=args.format, view=view, scores=reader(Store(args.results)), published=rows)
    except UnknownColumn as error:
        raise UsageError(f"--columns or --sort: {error}") from None
    apart = {"md": published_tables.markdown, "latex": published_tables.latex}
    return f"{text}\n{apart[args.format](papers)}" if papers and args.format in apart else text


def _page(args: argparse.Namespace) -> str:
    """The HTML report; columns and order are chosen on the page itself."""
    for name in ("columns", "sort"):
        if getattr(args, name):
            raise UsageError(f"--{name}: is chosen on the page of --format html itself; drop it")
    if args.out is None:
        raise UsageError("--format html: a page to look at; name its file with --out FILE.html")
    for folder in args.data_root:
        if not folder.exists():
            raise UsageError(f"--data-root {folder}: no such folder; name the folder that holds the task's files")
    from harness import report

    records, papers = _shown(args)
    return report.render(records, args.results, data_roots=args.data_root, published=papers)


def _published(args: argparse.Namespace) -> list[PublishedTable]:
    """All of the papers' tables, if they were asked for."""
    if not args.published:
        return []
    from harness import published

    return published.read(published.folder())


def compare(args: argparse.Namespace) -> int:
    """`compare`: the paired test of two methods or runs."""
    if not args.results.is_dir():
        raise UsageError(f"--results {args.results}: no such folder; 'vltune run' makes it")
    from harness.comparison import report
    from harness.example_scores import reader
    from harness.store import Store

    store = Store(args.results)
    print(report(args.a, args.b, _of_task(args.task, store.read()), reader(store)))
    return 0


def reproduce(args: argparse.Namespace) -> int:
    """`reproduce`: run a recorded cell again; 1 when a score differs."""
    if not args.results.is_dir():
        raise UsageError(f"--results {args.results}: no such folder; 'vltune run' makes it")
    from harness import cli, plan
    from harness import reproduce as again
    from harness.store import Store

    before = again.find(Store(args.results).read(), args.run_id)
    known = {record.run_id for record in Store(args.out).read()}
    planned = plan.build(again.arguments(before, cli.parse, results=args.out))
    from harness.run import execute

    if code := execute(planned):
        return code
    after = again.outcome(Store(args.out).read(), before, known)
    print(again.report(before, after))
    return 0 if again.same(before, after) else 1


def doctor(args: argparse.Namespace) -> int:
    """`doctor`: what this machine can run; 1 when the default `run` lacks something."""
    from harness import doctor

    findings = doctor.examine(results=args.results)
    print(doctor.report(findings))
    return 1 if doctor.lacking(findings) else 0


def results_check(args: argparse.Namespace) -> int:
    """`results check`: 1 when something is wrong."""
    if not args.results.is_dir():
        raise UsageError(f"--results {args.results}: no such folder; 'vltune run' makes it")
    from harness import results_check

    problems = results_check.check(args.results)
    print(results_check.report(args.results, problems))
    return 1 if problems else 0


def params(args: argparse.Namespace) -> int:
    """`params`: exact parameter counts, on the meta device."""
    from harness import plan

    chosen, task = plan.build_methods(args), plan.build_task(args)
    spec = plan.backbone_spec(args, shapes=True)
    from harness.params import report

    print(report(chosen, spec, task=task, format=args.format))
    return 0


def bench(args: argparse.Namespace) -> int:
    """`bench`: check the fast paths, then time them; 1 when one of them is wrong."""
    from harness import machine

    device = machine.resolve_device(args.device or "auto")
    from harness.bench import suite
    from harness.bench.result import BenchError

    names = suite.SUITES if args.what == "all" else (args.what,)
    try:
        suite.run(names, device=device, reduced=args.reduced, out=args.out, argv=args.argv)
    except BenchError as error:
        print(f"vltune: wrong result, so no speed is reported: {error}", file=sys.stderr)
        return 1
    return 0


def list_names(args: argparse.Namespace) -> int:
    """`list`: one name a line."""
    known = {"methods": methods.names, "tasks": tasks.names, "backbones": backbones.names}
    print("\n".join(known[args.what]()))
    return 0


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
    _of_task(args.task, [])
    if odd := [scope for scope in parse_overrides(args.set) if scope != args.task]:
        raise UsageError(f"--set {odd[0]}: data check reads {args.task} alone; drop this --set")
    from harness import plan

    task = plan.build_task(args)
    if task is None:
        raise RuntimeError(f"no task named {args.task}")
    return task


def backbone_pretrain(args: argparse.Namespace) -> int:
    """`backbone pretrain mini`: make the shipped weights anew."""
    from harness.backbones.mini.pretrain import pretrain

    out = args.out or Path(backbones.__file__).parent / "mini" / "weights"
    pretrain(out, seed=args.seed)
    print(out)
    return 0


def checkpoint_import(args: argparse.Namespace) -> int:
    """`checkpoint import`: read an authors' checkpoint, and print the folder that it became."""
    checkpoints.check(args.format)
    if args.format == checkpoints.LLAMA:
        _refuse_options(args)
        from harness.checkpoints import llama

        llama.import_(args.source, args.out)
    else:
        from harness import plan

        args.methods = _method_of(args)
        [(name, method)] = plan.build_methods(args)
        spec = plan.backbone_spec(args, shapes=True)
        from harness.checkpoints.convert import import_

        explicit = parse_overrides(args.set).get(name, {})
        import_(args.format, args.source, args.out, method=method, backbone=spec, explicit=explicit)
    print(args.out)
    return 0


def checkpoint_export(args: argparse.Namespace) -> int:
    """`checkpoint export`: write a folder of ours in an authors' format, and print where."""
    checkpoints.check(args.format)
    if args.format == checkpoints.LLAMA:
        if args.without_head:
            raise UsageError("--without-head: format llama is a language model without a task; drop --without-head")
        from harness.checkpoints import llama_export

        llama_export.export(args.source, args.out)
    else:
        from harness.checkpoints.convert import export

        export(args.format, args.source, args.out, without_head=args.without_head)
    print(args.out)
    return 0


def _method_of(args: argparse.Namespace) -> str:
    """The method of a checkpoint's format; `--method` may only say the same."""
    name = checkpoints.method_of(args.format)
    if args.method not in (None, *methods.names()):
        raise UsageError(f"unknown method {args.method!r}; {suggest(args.method, methods.names())}")
    if args.method not in (None, name):
        raise UsageError(f"--method {args.method}: format {args.format} is for method {name}; drop one of the two")
    return name


def _refuse_options(args: argparse.Namespace) -> None:
    for name in ("method", "backbone", "llm", "vision", "encoder", "tokenizer", "image_size", "set"):
        if getattr(args, name):
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag}: format llama is a language model without a method; drop {flag}")
