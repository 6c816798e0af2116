"""Memory: what is in use now, and the peak of a phase."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.record import Meter, scalar, unavailable

_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_UNTOLD = "the peak resident set of a phase needs a writable {file}: {error}"


@dataclass
class PeakMemory:
    """Peak memory of one phase.

    `used`: on CUDA the peak of allocated bytes; on CPU the peak resident set of the whole process, libraries, data
    and backbone included. `rise`: `used` less what was in use with nothing but the backbone loaded. `reserved`: CUDA
    only.
    """

    used: Meter
    rise: Meter
    reserved: Meter


def used_memory(device: torch.device) -> int | None:
    """Bytes in use now: allocated ones on CUDA, on CPU the resident set of the process; None where it cannot be told.

    What was freed is given back to the system first, as far as the C library can.
    """
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    _give_back()
    try:
        return _resident_bytes("VmRSS")
    except OSError:
        return None


@contextlib.contextmanager
def peak_memory(device: torch.device, *, before: int | None = None) -> Iterator[Callable[[], PeakMemory]]:
    """Measure the peak memory of the block; call what it yields at the end of the block.

    `before`: bytes that were in use with the backbone alone (`used_memory`), for the rise over them.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: _peak(
            torch.cuda.max_memory_allocated(device),
            before,
            reserved=scalar(torch.cuda.max_memory_reserved(device), "bytes"),
        )
        return
    _give_back()
    none = unavailable("reserved memory is a CUDA allocator's figure; this ran on CPU")
    try:
        _CLEAR_REFS.write_text("5")  # makes the kernel forget the process's earlier peak
    except OSError as error:
        reason = unavailable(_UNTOLD.format(file=_CLEAR_REFS, error=error.strerror))
        yield lambda: PeakMemory(reason, reason, none)
        return
    yield lambda: _peak(_resident_bytes("VmHWM"), before, reserved=none)


def _peak(used: int, before: int | None, *, reserved: Meter) -> PeakMemory:
    untold = unavailable("what was in use before is not known")
    rise = untold if before is None else scalar(max(0, used - before), "bytes")
    return PeakMemory(scalar(used, "bytes"), rise, reserved)


def _give_back() -> None:
    gc.collect()
    # glibc keeps freed memory for later; other C libraries have no such call, and keep what they like.
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def _resident_bytes(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
