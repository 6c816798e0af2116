"""`run --memory-gib N`: a limit on the memory of each process, so that a CPU's memory runs out as a GPU's does.

Without one the system kills a process that takes too much. With one an allocation fails, which the training answers
with smaller parts of the batch (`harness.out_of_memory`).
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from harness.settings import UsageError

GIB = 2**30
_STATUS = Path("/proc/self/status")
_M_MMAP_THRESHOLD = -3
"""Of glibc's malloc.h."""
_OWN_MAPPING_BYTES = 2**20


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
    _return_what_is_freed()


def _return_what_is_freed() -> None:
    """Have tensors lie in mappings of their own, which end when they are freed.

    By itself glibc moves tensors of up to 32 MiB into its heap once some were freed, and one small piece at the end of
    that keeps all of it. Under a limit nothing is left then for memory that is had past the heap, such as the code
    that oneDNN makes, however small a part of the batch is.
    """
    if (set_option := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        set_option(_M_MMAP_THRESHOLD, _OWN_MAPPING_BYTES)


def _data_bytes() -> int:
    """What RLIMIT_DATA counts: private memory that can be written, whether it was touched or not."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmData:"))
    return int(line.split()[1]) * 1024
