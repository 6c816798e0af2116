"""From a plan to records: everything is checked, then one cell is run after the other on one loaded backbone."""

from __future__ import annotations

import dataclasses
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import harness
import methods
import tasks
from harness import backbones, host_memory, prepare, provenance
from harness.attaching import use_head
from harness.backbones.backbone import Backbone
from harness.cell import ELSEWHERE, follow
from harness.cell import run as run_cell
from harness.checkpoints import own
from harness.choices import Choices
from harness.cluster.options import Options
from harness.outlook import Outlook, kinds
from harness.parallel import isolation, launch, spread
from harness.parallel.ranks import ALONE, Ranks, lost, together
from harness.plan import CellPlan, Plan
from harness.progress import note
from harness.record import Record, cell_key
from harness.resume.claims import WAIT_S
from harness.resume.stop import INTERRUPTED
from harness.settings import UsageError
from harness.statistics import example_scores
from harness.store import Store
from harness.tables import leaderboard
from harness.train import ways
from harness.workbench import Bench, Ready, key, say


def execute(plan: Plan) -> int:
    """Run every cell of a plan that has no record yet, and print the leaderboard.

    Returns:
        0: every cell is ok or skipped; 1: some cell failed; 130: interrupted.

    Raises:
        tasks.DataError, backbones.BackboneError, store.StoreError: found before any training.
    """
    launch.settle(plan.launch)
    if plan.worker:
        isolation.end_with_the_parent()
    if plan.memory_gib is not None:
        host_memory.limit(plan.memory_gib)
    ranks = Ranks(plan.launch.rank, plan.launch.count)
    with together(ranks, plan.device):
        try:
            return _lead(plan, ranks) if ranks.first else _follow(plan, ranks)
        except Exception as error:
            if ranks.alone or not lost(error):
                raise
            return 1  # whoever is gone has said why


def _follow(plan: Plan, ranks: Ranks) -> int:
    """Do this rank's share of every cell whose place in the plan rank 0 tells."""
    if threading.current_thread() is threading.main_thread():
        # It has nothing to write, and waits in calls that no exception of Python's gets through to.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ranks.tell("prepare")
    bench, ready = _prepared(plan, ranks)
    if _differing(bench, ready):
        return 2  # rank 0 says where
    nothing: int | None = None
    while (place := ranks.tell(nothing)) is not None:
        follow(bench, plan.cells[place], ready[place], f"[{place + 1}/{len(plan.cells)}]")
    return 0


def _lead(plan: Plan, ranks: Ranks) -> int:
    """As `execute`; rank 0, or the only one."""
    _say_checking(plan)
    bench, ready = _prepared(plan, ranks)
    ranks.tell("prepare")  # what is written once for all, such as the data of the mini world, is there
    if differing := _differing(bench, ready):  # else nobody has found anything wrong
        raise UsageError(f"not all processes have the same: {differing[0]}; copy it again, or install the same version")
    say(f"{_cells(plan)} on {bench.model.name}, {plan.precision} on {plan.device}, records in {plan.results}")
    choices = None
    if plan.tuning is not None:
        choices = Choices(plan, plan.tuning, bench.model, bench.validation, bench.store, say)
        say("\n".join(choices.announcement()))
    with bench.stop.listening():
        ran, statuses = _matrix(bench, choices, ready)
    return _close(bench, ran, statuses)


def execute_spread(plan: Plan, *, gpus: Sequence[int], workers: int | None) -> int:
    """As `execute`, in several processes; everything is checked here first.

    Raises:
        UsageError: there is no such GPU.
    """
    if gpus and max(gpus) >= (count := torch.cuda.device_count()):
        there = f"GPUs 0 to {count - 1}" if count else "no GPU that torch can use"
        raise UsageError(f"--gpus {max(gpus)}: this machine has {there}")
    _say_checking(plan)
    bench, _ = _prepared(dataclasses.replace(plan, isolate=True))
    team = spread.workers(gpus, workers, torch.get_num_threads())
    say(f"{len(plan.cells)} cells for {len(team)} workers, records in {plan.results}")
    code = spread.spread(team, spread.command(plan.argv), say, since=bench.since)
    if code == INTERRUPTED:
        say("not all is done: the same command goes on with what is left")
    else:
        _print_table(bench, plan.cells)
    return code


def execute_on_ray(plan: Plan, options: Options) -> int:
    """As `execute`, each cell as a task of a Ray cluster; everything is checked here first.

    Raises:
        UsageError: there is no such cluster, or none of its nodes can run a cell.
    """
    from harness.cluster import driver, matrix

    _say_checking(plan)
    with driver.joined(options, plan.device) as share:
        bench, ready = _prepared(dataclasses.replace(plan, isolate=True))
        say(f"{_cells(plan)} on the Ray cluster, {share} for each, records in {plan.results}")
        return _close(bench, plan.cells, matrix.run(bench, ready, share))


def _close(bench: Bench, ran: Sequence[CellPlan], statuses: Sequence[str]) -> int:
    """Say what is left or print the leaderboard of what was run, and give the exit code."""
    if "interrupted" in statuses or bench.stop.requested:
        done = sum(status not in ("interrupted", ELSEWHERE) for status in statuses)
        if left := len(bench.plan.cells) - done:
            say(f"{left} of {_cells(bench.plan)} not done: the same command goes on with what is left")
        return INTERRUPTED
    if not bench.plan.worker:
        _print_table(bench, ran)
    return 1 if "failed" in statuses else 0


def _print_table(bench: Bench, ran: Sequence[CellPlan]) -> None:
    print(f"\n{leaderboard.markdown(_recorded(bench, ran), scores=example_scores.reader(bench.store))}")


def _say_checking(plan: Plan) -> None:
    """So that a backbone of many GB is not waited for in silence."""
    if not plan.worker:
        say(f"checking {_cells(plan)}: data, weights and prompts of {plan.backbone.name}")


def _differing(bench: Bench, ready: Sequence[Ready]) -> list[str]:
    """What other ranks have that rank 0 has not, in which of its kind; the same on all of them, which have to ask."""
    ours: dict[str, Any] = {f"data of {name}": data.sha256 for name, data in bench.data.items()}
    ours["weights"] = bench.weights_sha256
    for cell, checked in zip(bench.plan.cells, ready, strict=True):
        own = {"method": cell.method_name, "task": cell.task_name}
        ours |= {f"code of {own.get(name, name)}": sha256 for name, sha256 in checked.code["sources"].items()}
    (_, first), *others = bench.ranks.gather((socket.gethostname(), ours))
    return [
        f"rank {rank} on {host} has other {what} than rank 0"
        for rank, (host, theirs) in enumerate(others, start=1)
        for what in first
        if theirs.get(what) != first[what]
    ]


def _cells(plan: Plan) -> str:
    return f"{len(plan.cells)} cell{'s' if len(plan.cells) > 1 else ''}"


def _prepared(plan: Plan, ranks: Ranks = ALONE) -> tuple[Bench, list[Ready]]:
    """Load and check everything that can be wrong before any hour of compute."""
    since = spread.began()
    store = Store(plan.results)
    store.check_writable()
    distinct = {cell.task_name: cell.task for cell in plan.cells}
    data = {name: prepare.task_data(plan, name, task) for name, task in distinct.items()}
    tuned = distinct if plan.tuning is not None else {}
    validation = {name: prepare.validation_data(plan, task, data[name]) for name, task in tuned.items()}
    started = time.perf_counter()
    model = backbones.load(plan.backbone, device=_device_of_checks(plan), precision=plan.precision)
    load_wall_s = time.perf_counter() - started
    trained = [name for name in distinct if prepare.trains(plan, name)]
    for name, task in distinct.items():
        seen = [*(data[name].train if name in trained else ()), *data[name].evaluation]
        task.prepare([*seen, *(validation[name].evaluation if validation else ())], image_size=model.image_size)
    if small := [name for name in trained if len(data[name].train) < ranks.count]:
        raise UsageError(f"{small[0]}: {len(data[small[0]].train)} examples are too few for {ranks.count} processes")
    bench = Bench(
        plan, model, data, weights_sha256(model), load_wall_s, store, ranks=ranks, validation=validation, since=since
    )
    ready = _preflights(bench)
    if _loaded_by_cells(plan):
        # Only its shapes are needed from here on; the memory is for the processes of the cells.
        bench = dataclasses.replace(bench, model=backbones.load(plan.backbone, device="meta", precision=plan.precision))
    return bench, ready


def _matrix(bench: Bench, choices: Choices | None, ready: Sequence[Ready]) -> tuple[list[CellPlan], list[str]]:
    """Run the cells until one is interrupted. Returns all of them, as they were run, and the statuses of those."""
    planned, order = bench.plan.cells, _order(bench)
    ran, statuses, recorded = list(planned), dict[int, str](), _recorded_keys(bench)
    short = [ready[place].skip is not None or key(bench, planned[place]) in recorded for place in order]
    all_kinds = kinds(bench.plan)
    outlook = Outlook([all_kinds[place] for place in order], short)
    for place in order:
        if bench.stop.requested:  # while a record was written, or in a process of its own that had just ended
            break
        begun = time.perf_counter()
        ran[place], statuses[place] = run_cell(bench, choices, planned[place], ready[place], _number(bench, place))
        if statuses[place] == "interrupted":
            break
        kept = key(bench, ran[place]) in recorded
        outlook.end(statuses[place], None if kept else time.perf_counter() - begun)
        if len(planned) > 1:
            say(str(outlook))
    if not _is_leaving(bench, statuses):
        _wait(bench, choices, ready, ran, statuses)
    if not _is_leaving(bench, statuses):  # a signal has reached the others too
        bench.ranks.tell(None)
    return ran, list(statuses.values())


def _is_leaving(bench: Bench, statuses: dict[int, str]) -> bool:
    return bench.stop.requested or "interrupted" in statuses.values()


def _order(bench: Bench) -> Sequence[int]:
    """The places of all cells in the order in which they are run.

    One that fails ends a run of several processes. So that it does not stand before the others for ever, those that
    have failed before come last, the one that has waited longest first.
    """
    places = range(len(bench.plan.cells))
    if bench.ranks.alone:
        return places
    failed = {cell_key(record.cell): record.run_id for record in bench.store.read() if record.status == "failed"}
    return sorted(places, key=lambda place: failed.get(key(bench, bench.plan.cells[place]), ""))


def _number(bench: Bench, place: int) -> str:
    return f"[{place + 1}/{len(bench.plan.cells)}]"


def _wait(
    bench: Bench, choices: Choices | None, ready: Sequence[Ready], ran: list[CellPlan], statuses: dict[int, str]
) -> None:
    """Wait for the cells that other processes run, and run those that they give up."""
    planned = bench.plan.cells
    for place in [place for place, status in statuses.items() if status == ELSEWHERE]:
        while statuses[place] == ELSEWHERE and not _is_leaving(bench, statuses):
            try:
                time.sleep(WAIT_S)
                ran[place], statuses[place] = run_cell(
                    bench, choices, planned[place], ready[place], _number(bench, place), quiet=True
                )
            except KeyboardInterrupt:
                statuses[place] = "interrupted"


def _loaded_by_cells(plan: Plan) -> bool:
    """Whether each cell loads a backbone of its own."""
    return plan.isolate or (not plan.launch.alone and plan.launch.parallel == "fsdp2")


def _device_of_checks(plan: Plan) -> str:
    """Where the backbone is held against the plan: not on the GPU that the cells' processes are to have."""
    if not _loaded_by_cells(plan):
        return plan.device
    return "meta" if plan.backbone.weights == "random" else "cpu"


def weights_sha256(model: Backbone) -> str | None:
    """Hash of the weight files that were loaded; None for random weights."""
    files = [
        path
        for where in model.folders
        for path in ([where] if where.is_file() else sorted(where.glob("*.safetensors")))
    ]
    return provenance.hash_files(files) if files else None


def _recorded(bench: Bench, cells: Sequence[CellPlan]) -> list[Record]:
    """The records of these cells; of cells that are not tuned yet those of any tuning of this budget."""
    keys = {key(bench, cell) for cell in cells}
    tuned = None if bench.plan.tuning is None else dataclasses.asdict(bench.plan.tuning)

    def wanted(record: Record) -> bool:
        if cell_key(record.cell) in keys:
            return True
        tuning = record.cell.options.get("tuning")
        if tuned is None or not isinstance(tuning, dict):
            return False
        return tuning.get("of") in keys and tuned.items() <= tuning.items()

    return [record for record in bench.store.read() if wanted(record)]


def _recorded_keys(bench: Bench) -> frozenset[str]:
    """Of cells that need not be run again; see `Store.find`."""
    if bench.plan.fresh or len(bench.plan.cells) == 1:
        return frozenset()
    return frozenset(cell_key(record.cell) for record in bench.store.read() if record.status in ("ok", "skipped"))


def _preflights(bench: Bench) -> list[Ready]:
    """What is known of each cell; all seeds of a method on a task share it, so that thousands take seconds."""
    found: dict[tuple[str, str], Ready] = {}
    for cell in bench.plan.cells:
        if (pair := (cell.method_name, cell.task_name)) not in found:
            found[pair] = _preflight(bench, cell)
    return [found[cell.method_name, cell.task_name] for cell in bench.plan.cells]


def _preflight(bench: Bench, cell: CellPlan) -> Ready:
    """Attach once for the checks that need it; the reason to skip where the backbone lacks something."""
    code = provenance.code(sources(cell))
    lacking = sorted(cell.task.needs - bench.model.offers)
    unmet = f"{bench.model.name} offers no {', '.join(lacking)}" if lacking else cell.method.unmet(bench.model)
    if unmet is not None:
        return Ready(unmet, None, code)
    ways(bench.model, cell.train).close()
    attachment = cell.method.attach(bench.model, cell.seed)
    try:
        if cell.init is not None:
            attachment.keep(use_head(bench.model, cell.method, cell.task, seed=cell.seed))
            head = None if bench.model.head is None else bench.model.head.state_dict()
            where = f"--init of {cell.method_name} on {bench.model.name}"
            own.fit(cell.init.state, attachment.state_dict(), where=where, head=head)
            first = cell is next(other for other in bench.plan.cells if other.init is cell.init)
            if first and cell.init.backbone != bench.model.name and bench.ranks.first and not bench.plan.worker:
                note(f"{where}: was trained on {cell.init.backbone}, whose features may mean something else")
        if cell.task_name in bench.validation:
            prepare.check_lengths(cell, bench.model, dataclasses.replace(bench.validation[cell.task_name], train=[]))
        return Ready(None, prepare.check_lengths(cell, bench.model, bench.data[cell.task_name]), code)
    finally:
        attachment.detach()


def sources(cell: CellPlan) -> dict[str, Path]:
    """The files that make a number; whole packages too, as a method may use another one or shared layers."""
    methods_folder, tasks_folder = Path(methods.__file__).parent, Path(tasks.__file__).parent
    return {
        "method": Path(sys.modules[type(cell.method).__module__].__file__ or methods_folder),
        "task": Path(sys.modules[type(cell.task).__module__].__file__ or tasks_folder),
        "kernels": methods_folder / "kernels",
        "methods": methods_folder,
        "tasks": tasks_folder,
        "harness": Path(harness.__file__).parent,
    }
