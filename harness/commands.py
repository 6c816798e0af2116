"""What each command does: imports what it needs, calls the library, prints the answer. Returns the exit code."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import methods
import tasks
from harness import backbones
from harness.cluster.options import options
from harness.settings import UsageError, suggest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.plan import Plan
    from harness.record import Record
    from harness.tables.published import PublishedTable


def run(args: argparse.Namespace) -> int:
    """`run`: plan every cell, then run those without a record."""
    if args.plan is not None:
        return _run_plan(args)
    from harness import plan

    # Planned before anything heavy is imported, so that mistakes are answered at once.
    return _run_planned(args, plan.build(args))


def _run_plan(args: argparse.Namespace) -> int:
    """Every command of a plan file: all are planned before the first is run; each reads its data and weights itself."""
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
    _check_results(args)
    _check_out(args, ("md", "html", "csv", "json", "latex"))
    _say(args, _page(args) if args.format == "html" else _tables(args))
    runs = args.results / "runs"
    if not any(runs.rglob("*.json")):
        where = f"--results names the folder that holds {runs.name}/ (ours: results/reference)"
        print(f"vltune: {runs} holds no record; {where}", file=sys.stderr)
    return 0


def _say(args: argparse.Namespace, text: str) -> None:
    """Print it, or write it where `--out` says."""
    if args.out is None:
        print(text.rstrip("\n"))
        return
    try:
        args.out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--out {args.out}: cannot be written ({error.strerror}); name another file") from None


def _check_results(args: argparse.Namespace) -> None:
    """Refuse a results folder that is not there."""
    if not args.results.is_dir():
        raise UsageError(f"--results {args.results}: no such folder; 'vltune run' makes it")


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


def _check_out(args: argparse.Namespace, formats: Sequence[str]) -> None:
    """Refuse a page without a file, a file whose ending promises another format, and a place for none."""
    if args.out is None:
        if args.format == "html":
            raise UsageError("--format html: a page to look at; name its file with --out FILE.html")
        return
    endings = {".html": "html", ".csv": "csv", ".json": "json", ".tex": "latex"}
    promised = endings.get(args.out.suffix.lower(), args.format)
    if promised != args.format:
        instead = f"add --format {promised} or name" if promised in formats else "name"
        raise UsageError(f"--out {args.out}: would hold {args.format}; {instead} another file")
    if args.out.is_dir() or not args.out.parent.is_dir():
        raise UsageError(f"--out {args.out}: cannot be written (a folder, or in none); name another file")


def _tables(args: argparse.Namespace) -> str:
    if args.columns and args.format in ("csv", "json"):
        raise UsageError(f"--columns: {args.format} holds every column; drop one of the two")
    if args.data_root:
        raise UsageError("--data-root: the report of --format html shows examples; drop it")
    from harness.statistics.example_scores import reader
    from harness.store import Store
    from harness.tables import published_tables
    from harness.tables.leaderboard import UnknownColumn, View, render

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
    from harness.tables import published

    return published.read(published.folder())


def compare(args: argparse.Namespace) -> int:
    """`compare`: the paired test of two methods or runs."""
    _check_results(args)
    if (args.only is None) != (args.data_root is None):
        raise UsageError("--only PART and --data-root DIR, the data that the runs used, need each other")
    if args.data_root is not None and not args.data_root.is_dir():
        raise UsageError(f"--data-root {args.data_root}: no such folder; name the folder that holds the task's files")
    from harness.statistics.example_scores import reader
    from harness.statistics.subsets import only
    from harness.store import Store
    from harness.tables.comparison import report

    store = Store(args.results)
    scores = reader(store) if args.only is None else only(args.only, scores=reader(store), root=args.data_root)
    print(report(args.a, args.b, _of_task(args.task, store.read()), scores, part=args.only))
    return 0


def reproduce(args: argparse.Namespace) -> int:
    """`reproduce`: run a recorded cell again; 1 when a score differs."""
    _check_results(args)
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
    _check_results(args)
    from harness import results_check

    problems = results_check.check(args.results)
    print(results_check.report(args.results, problems))
    return 1 if problems else 0


def params(args: argparse.Namespace) -> int:
    """`params`: exact parameter counts, on the meta device."""
    from harness import plan

    chosen, task = plan.build_methods(args), plan.build_task(args)
    spec = plan.backbone_spec(args, shapes=True)
    from harness.meters.params import report

    print(report(chosen, spec, task=task, format=args.format))
    return 0


def flops(args: argparse.Namespace) -> int:
    """`flops`: what a training step, a prompt and a token take, by length of text."""
    from harness import plan

    _check_out(args, ("md", "json", "html"))
    chosen, spec = plan.build_methods(args), plan.backbone_spec(args, shapes=True)
    from harness.meters import growth
    from harness.report import costs

    found, refused = growth.costs(chosen, spec, args.lengths)
    if args.format == "html":
        text = costs.render(found, refused, backbone=spec.name)
    elif args.format == "json":
        text = growth.as_json(found, refused)
    else:
        text = growth.as_markdown(found, refused, backbone=spec.name)
    _say(args, text)
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


def backbone_pretrain(args: argparse.Namespace) -> int:
    """`backbone pretrain mini`: make the shipped weights anew."""
    from harness.backbones.mini.pretrain import pretrain

    out = args.out or Path(backbones.__file__).parent / "mini" / "weights"
    pretrain(out, seed=args.seed)
    print(out)
    return 0
