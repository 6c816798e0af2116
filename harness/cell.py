"""One cell: tuned where the plan says so, run here or in a process of its own, and recorded however it ends."""

from __future__ import annotations

import dataclasses
import time
import traceback
from datetime import UTC, datetime

import torch

from harness import backbones, example_scores, isolation, space, tensorboard, tune
from harness.choices import Choices
from harness.columns import visible
from harness.measure import measure
from harness.plan import CellPlan, Plan
from harness.prepare import TaskData
from harness.recording import append, headline
from harness.resume import keeper as keeping
from harness.resume.claims import Claim, Claims, Title
from harness.resume.keeper import Keeper
from harness.space import Tuned
from harness.store import Store
from harness.tensorboard import Board
from harness.workbench import Bench, Ending, Ready, identity, key, say, title
from methods.kernels import Kernels

ELSEWHERE = "elsewhere"
INTERRUPTION = "stopped by the user (Ctrl-C or SIGTERM)"


def run(
    bench: Bench, choices: Choices | None, cell: CellPlan, ready: Ready, number: str, *, quiet: bool = False
) -> tuple[CellPlan, str]:
    """Run a cell unless another process does. Returns it as it was run, and its status (`elsewhere` for the other's).

    `quiet`: it was said before that another process runs it.
    """
    claim = Claims(bench.plan.results).take(key(bench, cell))
    if not isinstance(claim, Claim):
        if not quiet:
            who = visible(f"process {claim.get('pid')} on {claim.get('host')}")
            say(f"{title(bench, cell, number)}: left to {who}, which runs it")
        return cell, ELSEWHERE
    try:
        return _claimed(dataclasses.replace(bench, title=claim.title), choices, cell, ready, number)
    finally:
        claim.release()


def _claimed(bench: Bench, choices: Choices | None, cell: CellPlan, ready: Ready, number: str) -> tuple[CellPlan, str]:
    """Tune a cell where the plan says so, then run it."""
    if bench.plan.fresh:
        _keeper(bench, cell, ready, number).forget()
    if choices is not None and ready.skip is None and space.ranges(cell):
        before = cell
        cell, failed = _tuned(bench, choices, before, number)
        cells = tuple(cell if other is before else other for other in bench.plan.cells)
        bench = dataclasses.replace(bench, plan=dataclasses.replace(bench.plan, cells=cells))
        if failed is not None:
            return cell, append(bench, cell, ready, datetime.now(UTC), number, failed)
    return cell, (_apart if bench.plan.isolate else _cell)(bench, cell, ready, number)


def _tuned(bench: Bench, choices: Choices, cell: CellPlan, number: str) -> tuple[CellPlan, Ending | None]:
    """The cell with what was chosen for its method and task, at the first seed for all; its ending if there is none."""
    first = dataclasses.replace(cell, seed=bench.plan.cells[0].seed)
    of = key(bench, first)
    try:
        choice = choices.choose(first, of, label=f"{title(bench, first, number)}: tuning")
    except (KeyboardInterrupt, Exception) as error:  # noqa: BLE001 - a part of the cell, and so within its boundary
        none = Tuned(choices.options(first, of), {}, {})
        return dataclasses.replace(cell, tuned=none), _ending(error, process="tuning")
    failure = tune.failure(choice.report)
    cell = dataclasses.replace(space.with_values(cell, choice.values), tuned=choice)
    return cell, None if failure is None else Ending("failed", failure)


def _apart(bench: Bench, plan: CellPlan, ready: Ready, number: str) -> str:
    """As `_cell`, in a process of its own; if that is killed, the record says so and the matrix goes on."""
    if ready.skip is not None or (not bench.plan.fresh and bench.store.find(key(bench, plan))):
        return _cell(bench, plan, ready, number)
    started = datetime.now(UTC)
    alone = bench.plan.alone(plan)
    try:
        data = bench.data[plan.task_name]
        return isolation.apart(_fresh_cell, alone, data, bench.weights_sha256, bench.title, ready, number)
    except (KeyboardInterrupt, isolation.ProcessEndedError) as error:
        return append(bench, plan, ready, started, number, _ending(error))


def _fresh_cell(
    plan: Plan, data: TaskData, weights_sha256: str | None, right: Title | None, ready: Ready, number: str
) -> str:
    [cell] = plan.cells
    started = time.perf_counter()
    model = backbones.load(plan.backbone, device=plan.device, precision=plan.precision)
    load_wall_s = time.perf_counter() - started
    bench = Bench(plan, model, {cell.task_name: data}, weights_sha256, load_wall_s, Store(plan.results), right)
    with bench.stop.listening():
        return _cell(bench, cell, ready, number)


def _cell(bench: Bench, plan: CellPlan, ready: Ready, number: str) -> str:
    """Run one cell to its record: the one boundary where an error becomes a record. Returns the status."""
    found = None if bench.plan.fresh else bench.store.find(key(bench, plan))
    if found is not None:
        unsaved = (
            "; --save has nothing of it, --fresh trains it again" if bench.plan.save and found.status == "ok" else ""
        )
        say(f"{title(bench, plan, number)}: kept {found.run_id} ({headline(found)}){unsaved}")
        return found.status
    started = datetime.now(UTC)
    bench.model.kernels = Kernels(bench.plan.kernels)
    board = _board(bench, plan, started, number) if bench.plan.tensorboard and ready.skip is None else None
    keeper = _keeper(bench, plan, ready, number)
    try:
        skipped = None if ready.skip is None else Ending("skipped", ready.skip)
        ending = skipped or _measured(bench, plan, number, board, keeper)
    except (KeyboardInterrupt, Exception) as error:  # noqa: BLE001 - the cell boundary: recorded, the matrix goes on
        ending = _ending(error)
    status = append(bench, plan, ready, started, number, ending, board=board)
    if status in ("ok", "skipped"):
        keeper.forget()
    return status


def _keeper(bench: Bench, plan: CellPlan, ready: Ready, number: str) -> Keeper:
    """What is kept of the cell while it is not finished, good for this code and these libraries only."""
    cell = key(bench, plan)
    device = bench.plan.device.split(":")[0]
    belongs = {"cell": cell, "code": ready.code.get("sources"), "torch": torch.__version__, "device": device}

    def tell(line: str) -> None:
        say(f"{title(bench, plan, number)}: {line}")

    return Keeper(bench.plan.results / keeping.FOLDER / cell, belongs, bench.plan.every, tell, bench.stop)


def _board(bench: Bench, plan: CellPlan, started: datetime, number: str) -> Board:
    where = tensorboard.folder(bench.plan.results, identity(bench, plan), started)
    return Board(where, title(bench, plan, number))


def _ending(error: BaseException, *, process: str = "this run") -> Ending:
    """What an error within a cell means for its record, with the traceback unless another process has had it."""
    if isinstance(error, KeyboardInterrupt):
        return Ending("interrupted", INTERRUPTION)
    if isinstance(error, isolation.ProcessEndedError):
        return Ending("failed", f"the process of {process} ended: {error}")
    return Ending("failed", f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))


def _measured(bench: Bench, plan: CellPlan, number: str, board: Board | None, keeper: Keeper) -> Ending:
    data, after_step = bench.data[plan.task_name], board.step if board else None
    label = title(bench, plan, number)
    outcome = measure(bench.model, plan, bench.plan, data, label=label, after_step=after_step, keeper=keeper)
    parts = plan.task.example_scores(outcome.predictions, data.evaluation)
    metrics = {
        name: example_scores.with_interval(score, parts) if name == plan.task.primary else score
        for name, score in outcome.metrics.items()
    }
    outcome = dataclasses.replace(outcome, metrics=metrics)
    return Ending("ok", outcome=outcome, parts=parts, resumed=tuple(keeper.resumed))
