"""One cell: tuned where the plan says so, run here or in a process of its own, and recorded however it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import torch

from harness import backbones, space, tensorboard, tune
from harness.checkpoints import CheckpointError
from harness.choices import Choices
from harness.measure import Outcome, measure
from harness.parallel import isolation
from harness.parallel.ranks import lost
from harness.plan import CellPlan, Plan
from harness.prepare import TaskData
from harness.recording import append, headline, saved, sweep
from harness.resume import keeper as keeping
from harness.resume.claims import Claim, Claims, Title
from harness.resume.keeper import Keeper
from harness.space import Tuned
from harness.statistics import example_scores
from harness.store import Store, StoreError, ended
from harness.tensorboard import Board
from harness.train import DivergedError, Step
from harness.workbench import Bench, Ending, Ready, identity, is_unread, key, say, say_elsewhere, title
from methods.kernels import Kernels

ELSEWHERE = "elsewhere"
ALIKE = (KeyboardInterrupt, DivergedError)
"""What ends a cell on every rank at the same step."""
INTERRUPTION = "stopped by the user (Ctrl-C or SIGTERM)"
FATAL = (StoreError, CheckpointError, BrokenPipeError)
"""What no cell is to blame for: nothing can be written any more, or nobody reads what is said."""
TURN_S = 0.5
"""Between the ranks that would each record one error, which may be the same on all; the first one does."""


def run(
    bench: Bench, choices: Choices | None, cell: CellPlan, ready: Ready, number: str, *, quiet: bool = False
) -> tuple[CellPlan, str]:
    """Run a cell unless another process does. Returns it as it was run, and its status (`elsewhere` for the other's).

    `quiet`: it was said before that another process runs it.
    """
    claims, ours = Claims(bench.plan.results), list[Claim]()
    try:
        for name in _to_claim(bench, choices, cell, ready):
            claim = claims.take(name)
            if not isinstance(claim, Claim):
                if not quiet:
                    say_elsewhere(title(bench, cell, number), claim)
                return cell, ELSEWHERE
            ours.append(claim)
        bench = dataclasses.replace(bench, title=ours[0].title)
        return _claimed(bench, choices, cell, ready, number, taken_over=ours[0].taken_over)
    finally:
        for claim in ours:
            claim.release()


def _to_claim(bench: Bench, choices: Choices | None, cell: CellPlan, ready: Ready) -> Iterator[str]:
    """The cell; and what is to be chosen for all seeds, which becomes known with the record of the first of them."""
    yield (own := key(bench, cell))
    if choices is not None and _is_tuned(choices, cell, ready):
        first = _first_seed(bench, cell)
        if (of := key(bench, first)) != own and choices.made(first, of) is None:
            yield of


def _is_tuned(choices: Choices | None, cell: CellPlan, ready: Ready) -> bool:
    return choices is not None and ready.skip is None and bool(space.ranges(cell))


def _first_seed(bench: Bench, cell: CellPlan) -> CellPlan:
    return dataclasses.replace(cell, seed=bench.plan.cells[0].seed)


def _claimed(
    bench: Bench, choices: Choices | None, cell: CellPlan, ready: Ready, number: str, *, taken_over: bool
) -> tuple[CellPlan, str]:
    """Tune a cell where the plan says so, then run it; first clear up where its last owner was killed."""
    failed = None
    if choices is not None and _is_tuned(choices, cell, ready):
        before = cell
        cell, failed = _tuned(bench, choices, before, number)
        cells = tuple(cell if other is before else other for other in bench.plan.cells)
        bench = dataclasses.replace(bench, plan=dataclasses.replace(bench.plan, cells=cells))
    if taken_over:
        sweep(bench, cell)
    if bench.plan.fresh:
        keeper_of(bench, cell, ready, number).forget()
    if failed is not None:
        return cell, append(bench, cell, ready, datetime.now(UTC), number, failed)
    return cell, (_apart if bench.plan.isolate else _cell)(bench, cell, ready, number)


def _tuned(bench: Bench, choices: Choices, cell: CellPlan, number: str) -> tuple[CellPlan, Ending | None]:
    """The cell with what was chosen for its method and task, at the first seed for all; its ending if there is none."""
    first = _first_seed(bench, cell)
    of = key(bench, first)
    try:
        choice = choices.choose(first, of, label=f"{title(bench, first, number)}: tuning")
        bench.stop.check()
    except (KeyboardInterrupt, Exception) as error:
        if isinstance(error, BrokenPipeError) and is_unread():
            raise
        _raise_if_fatal(error)
        none = Tuned(choices.options(first, of), {}, {})
        return dataclasses.replace(cell, tuned=none), _ending(error, process="tuning")
    failure = tune.failure(choice.report)
    cell = dataclasses.replace(space.with_values(cell, choice.values), tuned=choice)
    return cell, None if failure is None else Ending("failed", failure)


def _apart(bench: Bench, plan: CellPlan, ready: Ready, number: str) -> str:
    """As `_cell`, in a process of its own; if that is killed, the record says so and the matrix goes on."""
    if ready.skip is not None:
        return _cell(bench, plan, ready, number)
    if (status := kept(bench, plan, ready, number)) is not None:
        return status
    started = datetime.now(UTC)
    alone = bench.plan.alone(plan)
    try:
        data = bench.data[plan.task_name]
        return isolation.apart(_fresh_cell, alone, data, bench.weights_sha256, bench.title, ready, number)
    except (KeyboardInterrupt, isolation.ProcessEndedError) as error:
        _raise_if_fatal(error)
        sweep(bench, plan)
        done = bench.store.find(identity(bench, plan))
        if done is not None and ended(done) >= started:  # it had recorded the cell before it was killed
            keeper_of(bench, plan, ready, number).forget()
            return done.status
        return append(bench, plan, ready, started, number, _ending(error))


def _raise_if_fatal(error: BaseException) -> None:
    """Raise what ended a process of its own, where that is to end this one too."""
    cause = error.__cause__
    if isinstance(cause, FATAL) and (not isinstance(cause, BrokenPipeError) or is_unread()):
        raise cause from None


def _fresh_cell(
    plan: Plan, data: TaskData, weights_sha256: str | None, right: Title | None, ready: Ready, number: str
) -> str:
    return run_alone(bench_alone(plan, data, weights_sha256, right), ready, number)


def bench_alone(plan: Plan, data: TaskData, weights_sha256: str | None, right: Title | None) -> Bench:
    """The bench of the one cell of a plan (`Plan.alone`), in a process that does nothing else."""
    [cell] = plan.cells
    started = time.perf_counter()
    model = backbones.load(plan.backbone, device=plan.device, precision=plan.precision)
    load_wall_s = time.perf_counter() - started
    return Bench(plan, model, {cell.task_name: data}, weights_sha256, load_wall_s, Store(plan.results), right)


def run_alone(bench: Bench, ready: Ready, number: str) -> str:
    """Run the cell of `bench_alone` to its record. Returns the status."""
    with bench.stop.listening():
        return _cell(bench, bench.plan.cells[0], ready, number)


def _cell(bench: Bench, plan: CellPlan, ready: Ready, number: str) -> str:
    """Run one cell to its record: the one boundary where an error becomes a record. Returns the status."""
    if (status := kept(bench, plan, ready, number)) is not None:
        return status
    started = datetime.now(UTC)
    board = _board(bench, plan, started, number) if bench.plan.tensorboard and ready.skip is None else None
    keeper = keeper_of(bench, plan, ready, number)
    told = broken = False
    try:
        if ready.skip is not None:
            ending = Ending("skipped", ready.skip)
        else:
            bench = _with_model(bench)
            ending = _measured(bench, plan, number, board, keeper)
    except (KeyboardInterrupt, Exception) as error:
        if isinstance(error, BrokenPipeError) and is_unread():
            raise
        ending = _ending(error, keeper)
        told = _is_told(bench, plan, error)
        broken = not (bench.ranks.alone or isinstance(error, ALIKE))
    if told:
        _leave(f"{title(bench, plan, number)}: {ending.reason}")
    with bench.stop.stepping():  # a record is written whole, or not at all
        status = append(bench, plan, ready, started, number, ending, board=board)
        if status in ("ok", "skipped"):
            keeper.forget()
    if broken:
        _leave(f"{title(bench, plan, number)}: {ending.reason}")
    return status


def _is_told(bench: Bench, plan: CellPlan, error: BaseException) -> bool:
    """Whether another rank has recorded why it left, so that this one has lost it, or was asked to leave too."""
    if bench.ranks.alone or not (isinstance(error, KeyboardInterrupt) or lost(error)):
        return False
    return bench.store.failed_since(identity(bench, plan), bench.since) is not None


def follow(bench: Bench, cell: CellPlan, ready: Ready, number: str) -> None:
    """Do the share of another rank in a cell that rank 0 runs and records."""
    started = datetime.now(UTC)
    try:
        bench = _with_model(bench)
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):  # rank 0 says how far it is
            _share(bench, cell, number, after_step=None, keeper=None)
    except ALIKE:
        return
    except Exception as error:  # noqa: BLE001 - the cell boundary of this process
        ending = _ending(error, rank=bench.ranks.rank)
        if not lost(error):  # whoever has gone, or rank 0, has recorded why
            time.sleep(TURN_S * bench.ranks.rank)
            if bench.store.failed_since(identity(bench, cell), bench.since) is None:
                append(bench, cell, ready, started, number, ending)
        _leave(f"{title(bench, cell, number)}: {ending.reason}")


def _leave(line: str) -> NoReturn:
    """End this process at once: the others wait for it in a call that only its end makes them leave."""
    say(f"{line}; the same command goes on with what is left")
    os._exit(1)


def _with_model(bench: Bench) -> Bench:
    """With a backbone of this cell's own where the cell splits it, which cannot be undone."""
    if bench.ranks.alone or bench.plan.launch.parallel != "fsdp2":
        return bench
    plan = bench.plan
    return dataclasses.replace(bench, model=backbones.load(plan.backbone, device="cpu", precision=plan.precision))


def _share(
    bench: Bench, plan: CellPlan, number: str, *, after_step: Callable[[Step], None] | None, keeper: Keeper | None
) -> Outcome | None:
    bench.model.kernels = Kernels(bench.plan.kernels)
    return measure(
        bench.model,
        plan,
        bench.plan,
        bench.data[plan.task_name],
        label=title(bench, plan, number),
        after_step=after_step,
        keeper=keeper,
        ranks=bench.ranks,
    )


def kept(bench: Bench, plan: CellPlan, ready: Ready, number: str) -> str | None:
    """The status of a cell that need not be run as its record says all, which is told; None for any other.

    So it is with one that has failed, here or elsewhere, since this command began.
    """
    if bench.plan.fresh:
        return None
    made = identity(bench, plan)
    if (found := bench.store.find(made)) is not None:
        keeper_of(bench, plan, ready, number).forget()  # a process may have been killed before it did
        missing = bench.plan.save and found.status == "ok" and not saved(bench, found).is_dir()
        unsaved = "; --save has nothing of it, --fresh trains it again" if missing else ""
    elif (found := bench.store.failed_since(made, bench.since)) is not None:
        unsaved = "; started again, the same command tries it again"
    else:
        return None
    say(f"{title(bench, plan, number)}: kept {found.run_id} ({headline(found)}){unsaved}")
    return found.status


def keeper_of(bench: Bench, plan: CellPlan, ready: Ready, number: str) -> Keeper:
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


def _ending(error: BaseException, keeper: Keeper | None = None, *, process: str = "this run", rank: int = 0) -> Ending:
    """What an error within a cell means for its record, with the traceback unless another process has had it."""
    if isinstance(error, KeyboardInterrupt):
        step = None if keeper is None else keeper.kept_step
        goes_on = "" if step is None else f"; its training is kept up to step {step}"
        return Ending("interrupted", f"{INTERRUPTION}{goes_on}")
    if lost(error):
        return Ending("failed", f"another process of the run ended, as rank {rank} found")
    if rank:
        return Ending(
            "failed", f"rank {rank}: {type(error).__name__}: {error}", "".join(traceback.format_exception(error))
        )
    if isinstance(error, isolation.ProcessEndedError):
        return Ending("failed", f"the process of {process} ended: {error}")
    return Ending("failed", f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))


def _measured(bench: Bench, plan: CellPlan, number: str, board: Board | None, keeper: Keeper) -> Ending:
    data = bench.data[plan.task_name]
    bench.ranks.tell(next(place for place, cell in enumerate(bench.plan.cells) if cell is plan))
    # What several processes share begins anew: a state would have to hold the random numbers of each.
    kept = keeper if bench.ranks.alone else None
    outcome = _share(bench, plan, number, after_step=board.step if board else None, keeper=kept)
    if outcome is None:
        raise RuntimeError("rank 0 has no outcome")
    parts = plan.task.example_scores(outcome.predictions, data.evaluation)
    metrics = {
        name: example_scores.with_interval(score, parts) if name == plan.task.primary else score
        for name, score in outcome.metrics.items()
    }
    outcome = dataclasses.replace(outcome, metrics=metrics)
    return Ending("ok", outcome=outcome, parts=parts, resumed=tuple(keeper.resumed))
