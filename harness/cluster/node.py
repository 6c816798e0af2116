"""What runs on a node for one cell: a fresh process, whose lines and files are sent to the driver as they come.

Imports nothing heavy, as every worker process of Ray loads it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

import harness
from harness import provenance
from harness.cluster.parcel import Ended, Line, Message, pieces
from harness.parallel.isolation import ending

REASON = "reason.txt"
"""Where a process that cannot run its cell says why."""
_ROOT = Path(harness.__file__).resolve().parents[1]
_LOOK_S = 0.5
"""How soon a cancellation is noticed."""


def run_cell(job: bytes, threads: int, results: str) -> Iterator[Message]:
    """Run the cell of a pickled `harness.cluster.job.Job`.

    Args:
        job: goes to the fresh process as it is.
        threads: that the process may compute with.
        results: the driver's results folder, which lines are to name in place of the one here.
    """
    yield Line(f"begun on {_here()} with {threads} thread{'s' if threads > 1 else ''}")
    with tempfile.TemporaryDirectory(prefix="vltune-") as name:
        process = _start(Path(name), threads)
        try:
            for line in _lines(process, job):
                yield Line(line.replace(name, results))
            code = process.wait()
        finally:
            _end(process)
        failure = _failure(Path(name), code)
        if failure is None:
            yield from pieces(Path(name))
        yield Ended(failure)


def sources() -> dict[str, str]:
    """SHA-256 of the code of this machine, by package."""
    return {name: provenance.hash_files(sorted((_ROOT / name).rglob("*.py"))) for name in provenance.CODE}


def _here() -> str:
    from ray.util import get_node_ip_address

    return f"{socket.gethostname()} ({get_node_ip_address()})"


def _start(folder: Path, threads: int) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "harness.cluster.child", str(folder), str(os.getpid())],
        env=os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process, unless it has ended, with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _lines(process: subprocess.Popen[bytes], job: bytes) -> Iterator[str]:
    """What the process says while it is given its job."""
    if process.stdin is None or process.stdout is None:
        raise ValueError("the process was started without pipes")
    said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(process.stdout, said), daemon=True).start()
    for give in (partial(process.stdin.write, job), process.stdin.close):
        with contextlib.suppress(BrokenPipeError):  # its exit code tells more
            give()
    while True:
        # In short waits, as an interruption of the task is seen between two of them only.
        with contextlib.suppress(queue.Empty):
            line = said.get(timeout=_LOOK_S)
            if line is None:
                return
            yield line


def _listen(lines: IO[bytes], said: queue.SimpleQueue[str | None]) -> None:
    with lines:
        for line in lines:
            said.put(line.decode("utf-8", "replace").rstrip())
    said.put(None)


def _failure(folder: Path, code: int) -> str | None:
    """Why a process left no record."""
    reason = folder / REASON
    if reason.is_file():
        return reason.read_text(encoding="utf-8")
    return None if code == 0 else f"the process of this run ended: {ending(code)}"
