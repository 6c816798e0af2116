"""The cells of a matrix on a Ray cluster: handed out, followed line by line, started again where a node was lost.

One process, the driver, writes all records. It holds the claim to each cell that is out, so that several drivers, or a
driver and other processes, may share a results folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pickle
import signal
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from harness.cell import ELSEWHERE, keeper_of, kept
from harness.cluster import node, resources
from harness.cluster.job import Job, portable
from harness.cluster.parcel import Arrivals, Ended, Line, ParcelError, Piece
from harness.cluster.progress import Progress
from harness.cluster.resources import Share
from harness.recording import append, sweep
from harness.resume.claims import WAIT_S, Claim, Claims
from harness.resume.stop import handlers_kept
from harness.store import StoreError
from harness.workbench import Bench, Ending, Ready, identity, key, say, say_elsewhere, say_taken_over, title

MOST_STARTS = 3
"""How often a cell is started whose node, or process there, is lost."""
AT_ONCE = 1000
"""Cells that Ray has at a time, running or waiting for a node. Each has a claim, which is touched every few seconds."""
LEAVE_S = 8.0
"""How long nodes have to clear up after Ctrl-C; the driver is to have left ten seconds after it."""
IDLE_S = 60.0
"""Between two looks whether any node is left."""


class LostError(RuntimeError):
    """A cell ended on its node without an end of its own."""


def run(bench: Bench, ready: Sequence[Ready], share: Share) -> list[str]:
    """Run every cell that has no record yet. Returns the statuses of those that ended, `interrupted` after Ctrl-C.

    Raises:
        harness.store.StoreError: a record cannot be written; no further cell is run.
    """
    matrix = _Matrix(bench, ready, share)
    try:
        with handlers_kept():
            asyncio.run(matrix.run())
    except asyncio.CancelledError:
        return [*matrix.statuses.values(), "interrupted"]
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return list(matrix.statuses.values())


class _Matrix:
    def __init__(self, bench: Bench, ready: Sequence[Ready], share: Share) -> None:
        self.statuses: dict[int, str] = {}
        self._bench = dataclasses.replace(bench, plan=portable(bench.plan))
        self._ready = ready
        self._share = share
        self._room = asyncio.Semaphore(AT_ONCE)
        self._progress = Progress(bench.plan, say)
        self._left_to_others: set[int] = set()
        # Whatever is lost is started again here, where it can be told and its files be thrown away.
        self._task = ray.remote(num_returns="streaming", max_retries=0, **share.as_options())(node.run_cell)

    async def run(self) -> None:
        loop, ours = asyncio.get_running_loop(), asyncio.current_task()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ours.cancel)  # type: ignore[union-attr]
        watch = asyncio.create_task(self._watch())
        try:
            async with asyncio.TaskGroup() as group:
                for index in range(len(self._ready)):
                    group.create_task(self._cell(index))
        finally:
            watch.cancel()

    async def _watch(self) -> None:
        """Say that nothing can go on, which Ray itself takes for patience."""
        while True:
            await asyncio.sleep(IDLE_S)
            if not self._progress.running and not any(map(self._share.fits, resources.nodes())):
                say(f"no node of the cluster has {self._share} for a cell now; waiting for one (Ctrl-C leaves)")

    async def _cell(self, index: int) -> None:
        status = ELSEWHERE
        while status == ELSEWHERE:
            async with self._room:
                status = await self._turn(index)
            if status == ELSEWHERE:
                await asyncio.sleep(WAIT_S)
        self.statuses[index] = status
        self._progress.end(index, status)

    async def _turn(self, index: int) -> str:
        """Run a cell unless another process does."""
        cell, ready, bench, number = self._bench.plan.cells[index], self._ready[index], self._bench, self._number(index)
        claim = Claims(bench.plan.results).take(key(bench, cell))
        if not isinstance(claim, Claim):
            if index not in self._left_to_others:
                self._left_to_others.add(index)
                say_elsewhere(title(bench, cell, number), claim)
            return ELSEWHERE
        try:
            bench = dataclasses.replace(bench, title=claim.title)
            if claim.taken_over:
                sweep(bench, cell)
            if (status := kept(bench, cell, ready, number)) is not None:
                return status
            if ready.skip is not None:
                return append(bench, cell, ready, datetime.now(UTC), number, Ending("skipped", ready.skip))
            return await self._insist(bench, index)
        finally:
            claim.release()

    async def _insist(self, bench: Bench, index: int) -> str:
        """Run a cell, on one node after the other if need be, until it ends in a record."""
        begun, reason = datetime.now(UTC), ""
        label = title(bench, bench.plan.cells[index], self._number(index))
        for start in range(1, MOST_STARTS + 1):
            try:
                return await self._once(bench, index, label)
            except (RayTaskError, ParcelError) as error:
                reason = f"it could not be run on its node: {_last_line(error)}"
                break
            except (RayError, LostError) as error:
                self._progress.lost(index)
                reason = f"its node, or its process there, was lost {start} times, last: {_first_sentence(error)}"
                say(f"{label}: lost ({_first_sentence(error)}){'; started again' if start < MOST_STARTS else ''}")
        return self._failed(bench, index, begun, reason)

    async def _once(self, bench: Bench, index: int, label: str) -> str:
        """Run a cell on whatever node is free, and record it.

        Raises:
            RayTaskError, ParcelError: it cannot be run, or not there.
            RayError, LostError: its node or its process was lost.
        """
        begun, cell = datetime.now(UTC), bench.plan.cells[index]
        with Arrivals(bench.plan.results) as arrivals:
            task = self._task.remote(self._job(index), self._share.cpus, str(bench.plan.results))
            try:
                failure = await self._follow(task, index, label, arrivals)
            except (asyncio.CancelledError, ParcelError, StoreError):
                await _cancel(task)
                raise
            if failure is not None:
                return self._failed(bench, index, begun, failure)
            record = arrivals.record(identity(bench, cell))
            if record.status == "interrupted":
                raise LostError("it was asked to leave")
            if bench.title is not None and not bench.title.held():
                say_taken_over(label)
                return ELSEWHERE
            arrivals.deliver(record, bench.store)
            if record.status in ("ok", "skipped"):  # it may have been begun here before
                keeper_of(bench, cell, self._ready[index], self._number(index)).forget()
            return record.status

    async def _follow(self, task: Any, index: int, label: str, arrivals: Arrivals) -> str | None:
        """Show what a cell says and keep what it sends. Returns why it failed, where it left no record."""
        async for reference in task:
            message = await reference
            self._progress.begin(index)
            match message:
                case Line(text):
                    say(text if text.startswith(self._number(index)) else f"{label}: {text}")
                case Piece():
                    arrivals.add(message)
                case Ended(failure):
                    return failure
        raise LostError("it ended without a word")

    def _failed(self, bench: Bench, index: int, begun: datetime, reason: str) -> str:
        ending = Ending("failed", reason)
        return append(bench, bench.plan.cells[index], self._ready[index], begun, self._number(index), ending)

    def _job(self, index: int) -> bytes:
        plan, cell = self._bench.plan, self._bench.plan.cells[index]
        data = self._bench.data[cell.task_name].sha256
        return pickle.dumps(
            Job(plan.alone(cell), self._ready[index], self._number(index), data, self._bench.weights_sha256)
        )

    def _number(self, index: int) -> str:
        return f"[{index + 1}/{len(self._ready)}]"


async def _cancel(task: Any) -> None:
    """End a task, and give its node the time to clear up."""

    async def ended() -> None:
        await task.completed()

    ray.cancel(task)
    with contextlib.suppress(RayError, TimeoutError):
        await asyncio.wait_for(ended(), LEAVE_S)


def _first_sentence(error: BaseException) -> str:
    """What Ray says of a loss, without its advice."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line.partition(". ")[0].rstrip(".")


def _last_line(error: BaseException) -> str:
    return next(reversed(str(error).strip().splitlines()), type(error).__name__)
