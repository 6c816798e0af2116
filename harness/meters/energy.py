"""Joules of a phase: NVML's energy counter of a GPU, or the RAPL counters of all CPU packages."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from harness.meters import nvml
from harness.record import Meter, scalar, unavailable

POWERCAP = Path("/sys/class/powercap")
POLL_S = 60.0  # a counter of some 262 kJ may start again within half an hour; in one poll it cannot do so twice


class CounterError(RuntimeError):
    """A counter that cannot be read; the message says what is missing."""


@contextlib.contextmanager
def energy(device: torch.device) -> Iterator[Callable[[], Meter]]:
    """Measure the energy of the block; call what it yields at the end of the block.

    The counters know no processes: whatever else runs on the same GPU or CPU is in the joules. On CUDA those of the
    GPU with its memory, without the CPU; on CPU those of every package, without its memory modules.
    """
    with contextlib.ExitStack() as stack:
        try:
            joules: Callable[[], float] = stack.enter_context(_counter(device))
        except (CounterError, nvml.NvmlError) as error:
            joules = _failing(error)
        yield lambda: _reading(joules)


def _counter(device: torch.device) -> contextlib.AbstractContextManager[Callable[[], float]]:
    if device.type == "cuda":
        return _gpu(device)
    if device.type == "cpu":
        return _packages()
    raise CounterError(f"there is no energy counter for {device.type}, only for cuda and cpu")


def _failing(error: Exception) -> Callable[[], float]:
    def joules() -> float:
        raise error

    return joules


def _reading(joules: Callable[[], float]) -> Meter:
    try:
        return scalar(round(joules(), 3), "joules")
    except (CounterError, nvml.NvmlError) as error:
        return unavailable(str(error))


@contextlib.contextmanager
def _gpu(device: torch.device) -> Iterator[Callable[[], float]]:
    """Joules since the start by the GPU's own counter, which has millijoules; the device is waited for."""
    with nvml.opened(device) as gpu:

        def read() -> int:
            torch.cuda.synchronize(device)
            return gpu.energy_mj()

        start_mj = read()
        yield lambda: (read() - start_mj) / 1e3


@dataclass
class _Package:
    """One RAPL domain: microjoules used since the first poll of a counter that starts again after `range_uj`."""

    counter: Path
    range_uj: int
    last_uj: int
    used_uj: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def poll(self) -> int:
        """Read the counter, at least once per turn of it; what was used so far."""
        with self.lock:
            now = _number(self.counter)
            self.used_uj += now - self.last_uj + (self.range_uj if now < self.last_uj else 0)
            self.last_uj = now
            return self.used_uj


@contextlib.contextmanager
def _packages() -> Iterator[Callable[[], float]]:
    """Joules since the start, summed over the packages; a thread reads them now and then to see each turn."""
    found = [zone for zone in sorted(POWERCAP.glob("intel-rapl:*")) if _is_package(zone)]
    if not found:
        raise CounterError(
            f"no RAPL package domain (intel-rapl:N) in {POWERCAP}; virtual machines and containers rarely have one"
        )
    packages = [
        _Package(zone / "energy_uj", _number(zone / "max_energy_range_uj"), _number(zone / "energy_uj"))
        for zone in found
    ]
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(packages, ended), name="energy", daemon=True)
    watcher.start()
    try:
        yield lambda: sum(package.poll() for package in packages) / 1e6
    finally:
        ended.set()
        watcher.join()


def _is_package(zone: Path) -> bool:
    """Not the cores or memory within a package (intel-rapl:0:1), nor psys, which holds the packages."""
    return re.fullmatch(r"intel-rapl:\d+", zone.name) is not None and _text(zone / "name").startswith("package")


def _watch(packages: Sequence[_Package], ended: threading.Event) -> None:
    while not ended.wait(POLL_S):
        for package in packages:
            with contextlib.suppress(CounterError):  # the last reading, which counts, says so again
                package.poll()


def _number(file: Path) -> int:
    text = _text(file)
    try:
        return int(text)
    except ValueError:
        raise CounterError(f"{file} should hold a number of microjoules, got {text[:40]!r}") from None


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError as error:
        raise CounterError(f"the CPU's energy needs a readable {file}: {error.strerror}") from None
