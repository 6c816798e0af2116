"""`run --gpus 0,1` and `run --workers N`: one matrix over processes, a cell each, the next as soon as one is free.

Each worker is the same command on a GPU of its own; claims on the results folder (`harness.resume.claims`) keep two of
them from running one cell, and so would any other process that is given the same command.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO

from harness.resume.stop import INTERRUPTED

MOST_STARTS = 3
"""How often a worker that was killed is started again."""
BEGAN = "VLTUNE_BEGAN"
"""Tells a worker when the command began that it is a part of."""
_FLAGS, _VISIBLE = ("--gpus", "--workers"), "CUDA_VISIBLE_DEVICES"


@dataclass
class Worker:
    """One process at a time on one GPU, or on a share of the CPU's cores.

    Attributes:
        name: how its lines begin.
        environment: beyond the parent's.
    """

    name: str
    environment: Mapping[str, str]
    starts: int = 0
    process: subprocess.Popen[str] | None = None
    codes: list[int] = field(default_factory=list)

    def ask_to_leave(self) -> None:
        """Pass on that the command is to end."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)


def workers(
    gpus: Sequence[int], count: int | None, cores: int, environment: Mapping[str, str] = os.environ
) -> list[Worker]:
    """A worker for each GPU, by its place among those that this process may use; or `count` that share `cores`."""
    if gpus:
        visible = environment.get(_VISIBLE)
        names = None if visible is None else [name.strip() for name in visible.split(",")]
        return [Worker(f"gpu {n}", {_VISIBLE: str(n) if names is None else names[n]}) for n in gpus]
    threads = str(max(1, cores // (count or 1)))
    return [Worker(f"worker {number}", {"OMP_NUM_THREADS": threads}) for number in range(count or 1)]


def command(argv: Sequence[str]) -> list[str]:
    """The command of a worker: that of the parent without what spreads it."""
    words, kept = list(argv), []
    while words:
        word = words.pop(0)
        if word in _FLAGS:
            words.pop(0)
        elif word.partition("=")[0] not in _FLAGS:
            kept.append(word)
    return [sys.executable, "-m", "harness", *kept, "--worker"]


def began(environment: Mapping[str, str] = os.environ) -> datetime:
    """When the command began; of a worker, that of its parent."""
    told = environment.get(BEGAN)
    return datetime.now(UTC) if told is None else datetime.fromisoformat(told)


def spread(
    team: Sequence[Worker], words: Sequence[str], say: Callable[[str], None], *, since: datetime | None = None
) -> int:
    """Run the same command in every worker until all have ended.

    A worker that is killed is started again; what it ran goes on from its kept state. Ctrl-C and SIGTERM are passed on.
    `since` is when the command began, which workers are told.

    Returns:
        The exit code: 130 where the command was asked to leave, 1 where a cell failed or a worker was killed too often,
        else 0.
    """
    leaving = threading.Event()

    def leave(*_: object) -> None:
        leaving.set()
        for worker in team:
            worker.ask_to_leave()

    told = (since or began()).isoformat()
    # No KeyboardInterrupt: wherever it came, some worker would not be told.
    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with ThreadPoolExecutor(len(team)) as pool:
            attended = [pool.submit(_attend, worker, words, say, told, leaving) for worker in team]
            broken = wait(attended, return_when=FIRST_EXCEPTION)
            if broken.not_done:  # nobody reads their lines any more
                leave()
            for future in attended:
                future.result()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    codes = [worker.codes[-1] for worker in team if worker.codes]
    return INTERRUPTED if leaving.is_set() or INTERRUPTED in codes else 1 if any(codes) else 0


def _attend(
    worker: Worker, words: Sequence[str], say: Callable[[str], None], since: str, leaving: threading.Event
) -> None:
    """Keep one worker running until it is to leave, and pass its lines on."""
    while worker.starts < MOST_STARTS and not leaving.is_set():
        worker.starts += 1
        # In a session of its own: Ctrl-C reaches the parent alone, which passes it on once.
        worker.process = subprocess.Popen(
            words,
            env={**os.environ, BEGAN: since, **worker.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        if leaving.is_set():  # it was asked to before there was a process that could be told
            worker.ask_to_leave()
        try:
            _pass_on(worker.process.stdout, worker.name, say)
        except BaseException:
            worker.ask_to_leave()
            raise
        finally:
            worker.codes.append(worker.process.wait())
        if worker.codes[-1] >= 0:
            return
        say(f"[{worker.name}] was ended by {signal.Signals(-worker.codes[-1]).name}")


def _pass_on(lines: IO[str] | None, name: str, say: Callable[[str], None]) -> None:
    if lines is None:
        raise ValueError("the worker's output is not a pipe")
    with lines:
        for line in lines:
            say(f"[{name}] {line.rstrip()}")
