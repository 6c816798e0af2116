"""`run --memory-gib N`: a limit on the memory of each process, so that a CPU's memory runs out as a GPU's does.

Without one the system kills a process that takes too much. With one an allocation fails, which the training answers
with smaller parts of the batch (`harness.out_of_memory`).
"""

from __future__ import annotations

import sys
from pathlib import Path

from harness.settings import UsageError

GIB = 2**30
_STATUS = Path("/proc/self/status")


def limit(gib: float) -> None:
    """Let this process, and those that it starts, have so much memory for data each.

    Raises:
        UsageError: the system has no such limit, the process has more already, or a lower limit is set.
    """
    if sys.platform != "linux":
        raise UsageError("--memory-gib: only Linux limits the memory of a process; drop it")
    import resource

    most, used = int(gib * GIB), _data_bytes()
    if used >= most:
        raise UsageError(f"--memory-gib {gib:g}: {used / GIB:.1f} GiB are in use before any run; give more")
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard not in (resource.RLIM_INFINITY, -1) and hard < most:
        raise UsageError(f"--memory-gib {gib:g}: this process may have {hard / GIB:.1f} GiB only; give less")
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _data_bytes() -> int:
    """What RLIMIT_DATA counts: private memory that can be written, whether it was touched or not."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmData:"))
    return int(line.split()[1]) * 1024
