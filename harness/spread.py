"""`run --gpus 0,1` and `run --workers N`: one matrix over processes, a cell each, the next as soon as one is free.

Each worker is the same command on a GPU of its own; claims on the results folder (`harness.resume.claims`) keep two of
them from running one cell, and so would any other process that is given the same command.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import IO

MOST_STARTS = 3
"""How often a worker that was killed is started again."""
_FLAGS = ("--gpus", "--workers")


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


def workers(gpus: Sequence[int], count: int | None, cores: int) -> list[Worker]:
    """A worker for each GPU; or `count` of them that share `cores` threads."""
    if gpus:
        return [Worker(f"gpu {number}", {"CUDA_VISIBLE_DEVICES": str(number)}) for number in gpus]
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


def spread(team: Sequence[Worker], words: Sequence[str], say: Callable[[str], None]) -> int:
    """Run the same command in every worker until all have ended.

    A worker that is killed is started again; what it ran goes on from its kept state. Ctrl-C and SIGTERM are passed on.

    Returns:
        The exit code: 130 where one was interrupted, 1 where a cell failed or a worker was killed too often, else 0.
    """
    before = signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        with ThreadPoolExecutor(len(team)) as pool:
            _wait([pool.submit(_attend, worker, words, say) for worker in team], team)
    finally:
        signal.signal(signal.SIGTERM, before)
    codes = [worker.codes[-1] for worker in team]
    return 130 if 130 in codes else 1 if any(codes) else 0


def _as_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _wait(attended: Sequence[Future[None]], team: Sequence[Worker]) -> None:
    """Wait until all workers have ended; being asked to leave is passed on to them."""
    while not all(future.done() for future in attended):
        try:
            wait(attended)
        except KeyboardInterrupt:
            for worker in team:
                worker.starts = MOST_STARTS
                if worker.process is not None and worker.process.poll() is None:
                    worker.process.send_signal(signal.SIGTERM)
    for future in attended:
        future.result()


def _attend(worker: Worker, words: Sequence[str], say: Callable[[str], None]) -> None:
    """Keep one worker running, and pass its lines on."""
    while worker.starts < MOST_STARTS:
        worker.starts += 1
        # In a session of its own: Ctrl-C reaches the parent alone, which passes it on once.
        worker.process = subprocess.Popen(
            words,
            env=os.environ | worker.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        _pass_on(worker.process.stdout, worker.name, say)
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
