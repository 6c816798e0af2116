"""From a plan to records: everything is checked, then one cell is run after the other on one loaded backbone."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import harness
import methods
import tasks
from harness import backbones, example_scores, host_memory, leaderboard, prepare, provenance, spread
from harness.attaching import use_head
from harness.backbones.backbone import Backbone
from harness.cell import ELSEWHERE, follow
from harness.cell import run as run_cell
from harness.checkpoints import own
from harness.choices import Choices
from harness.cluster.options import Options
from harness.outlook import Outlook, kinds
from harness.plan import CellPlan, Plan
from harness.progress import note
from harness.ranks import ALONE, Ranks, together
from harness.record import Record, cell_key
from harness.settings import UsageError
from harness.store import Store
from harness.train import ways
from harness.workbench import Bench, Ready, key, say

INTERRUPTED = 130
WAIT_S = 2.0
"""Between two looks at a cell that another process runs."""


def execute(plan: Plan) -> int:
    """Run every cell of a plan that has no record yet, and print the leaderboard.

    Returns:
        0: every cell is ok or skipped; 1: some cell failed; 130: interrupted.

    Raises:
        tasks.DataError, backbones.BackboneError, store.StoreError: found before any training.
    """
    if plan.memory_gib is not None:
        host_memory.limit(plan.memory_gib)
    ranks = Ranks(plan.launch.rank, plan.launch.count)
    with together(ranks, plan.device):
        return _lead(plan, ranks) if ranks.first else _follow(plan, ranks)


def _follow(plan: Plan, ranks: Ranks) -> int:
    """Do this rank's share of every cell whose place in the plan rank 0 tells."""
    ranks.tell("prepare")
    bench, ready = _prepared(plan, ranks)
    ranks.gather("prepared")
    nothing: int | None = None
    while (place := ranks.tell(nothing)) is not None:
        follow(bench, plan.cells[place], ready[place], f"[{place + 1}/{len(plan.cells)}]")
    return 0


def _lead(plan: Plan, ranks: Ranks) -> int:
    """As `execute`; rank 0, or the only one."""
    bench, ready = _prepared(plan, ranks)
    ranks.tell("prepare")  # what is written once for all, such as the data of the mini world, is there
    ranks.gather("prepared")  # nobody has found anything wrong
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
    bench, _ = _prepared(dataclasses.replace(plan, isolate=True))
    team = spread.workers(gpus, workers, torch.get_num_threads())
    say(f"{len(plan.cells)} cells for {len(team)} workers, records in {plan.results}")
    code = spread.spread(team, spread.command(plan.argv), say)
    print(f"\n{leaderboard.markdown(_recorded(bench, plan.cells), scores=example_scores.reader(bench.store))}")
    if code == INTERRUPTED:
        say("not all is done: the same command goes on with what is left")
    return code


def execute_on_ray(plan: Plan, options: Options) -> int:
    """As `execute`, each cell as a task of a Ray cluster; everything is checked here first.

    Raises:
        UsageError: there is no such cluster, or none of its nodes can run a cell.
    """
    from harness.cluster import driver, matrix

    with driver.joined(options, plan.device) as share:
        bench, ready = _prepared(dataclasses.replace(plan, isolate=True))
        say(f"{_cells(plan)} on the Ray cluster, {share} for each, records in {plan.results}")
        return _close(bench, plan.cells, matrix.run(bench, ready, share))


def _close(bench: Bench, ran: Sequence[CellPlan], statuses: Sequence[str]) -> int:
    """Say what is left, print the leaderboard of what was run, and give the exit code."""
    if "interrupted" in statuses:
        left = len(bench.plan.cells) - len(statuses) + 1
        say(f"{left} of {_cells(bench.plan)} not done: the same command goes on with what is left")
    if not bench.plan.worker:
        print(f"\n{leaderboard.markdown(_recorded(bench, ran), scores=example_scores.reader(bench.store))}")
    return INTERRUPTED if "interrupted" in statuses else 1 if "failed" in statuses else 0


def _cells(plan: Plan) -> str:
    return f"{len(plan.cells)} cell{'s' if len(plan.cells) > 1 else ''}"


def _prepared(plan: Plan, ranks: Ranks = ALONE) -> tuple[Bench, list[Ready]]:
    """Load and check everything that can be wrong before any hour of compute."""
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
    bench = Bench(plan, model, data, weights_sha256(model), load_wall_s, store, ranks=ranks, validation=validation)
    ready = _preflights(bench)
    if _loaded_by_cells(plan):
        # Only its shapes are needed from here on; the memory is for the processes of the cells.
        bench = dataclasses.replace(bench, model=backbones.load(plan.backbone, device="meta", precision=plan.precision))
    return bench, ready


def _matrix(bench: Bench, choices: Choices | None, ready: Sequence[Ready]) -> tuple[list[CellPlan], list[str]]:
    """Run the cells until one is interrupted. Returns all of them, as they were run, and the statuses of those."""
    planned = bench.plan.cells
    ran, statuses, recorded = list(planned), list[str](), _recorded_keys(bench)
    short = [
        checked.skip is not None or key(bench, cell) in recorded for cell, checked in zip(planned, ready, strict=True)
    ]
    outlook = Outlook(kinds(bench.plan), short)
    waiting: list[int] = []
    for number, (cell, checked) in enumerate(zip(planned, ready, strict=True), start=1):
        begun = time.perf_counter()
        ran[number - 1], status = run_cell(bench, choices, cell, checked, f"[{number}/{len(planned)}]")
        statuses.append(status)
        if status == "interrupted":
            break
        if status == ELSEWHERE:
            waiting.append(number - 1)
        kept = key(bench, ran[number - 1]) in recorded
        outlook.end(status, None if kept else time.perf_counter() - begun)
        if len(planned) > 1:
            say(str(outlook))
    if waiting and "interrupted" not in statuses and not bench.plan.worker:
        _wait(bench, choices, ready, ran, statuses, waiting)
    if "interrupted" not in statuses:  # a signal has reached the others too
        bench.ranks.tell(None)
    return ran, statuses


def _wait(
    bench: Bench,
    choices: Choices | None,
    ready: Sequence[Ready],
    ran: list[CellPlan],
    statuses: list[str],
    waiting: Sequence[int],
) -> None:
    """Wait for the cells that other processes run, and run those that they give up."""
    planned = bench.plan.cells
    for index in waiting:
        number = f"[{index + 1}/{len(planned)}]"
        while statuses[index] == ELSEWHERE:
            try:
                time.sleep(WAIT_S)
                ran[index], statuses[index] = run_cell(bench, choices, planned[index], ready[index], number, quiet=True)
            except KeyboardInterrupt:
                statuses[index] = "interrupted"
        if statuses[index] == "interrupted":
            return


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
