"""Timing of rival implementations in one process: they take turns, so that a busy machine slows all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from harness.meters.memory import peak_memory
from harness.meters.speed import Stopwatch
from harness.record import Distribution, Meter, Scalar, distribution, scalar, unavailable


@dataclass(frozen=True)
class Timing:
    """Milliseconds per call, and the peak memory of one call beyond what was there before it (CUDA only)."""

    ms: Distribution
    peak_bytes: Meter


def alternate(
    cases: Mapping[str, Callable[[], object]], *, device: torch.device, rounds: int, calls: int = 1, warm_up: int = 1
) -> dict[str, Timing]:
    """Time each case `rounds` times, one after the other in every round.

    Args:
        cases: what to call, by name.
        device: what to wait for before the clock is read.
        rounds: samples of each case.
        calls: calls per sample; many for what takes microseconds.
        warm_up: rounds that are not counted (compilation, allocator, caches); 0 where each case has run already.
    """
    peaks = {name: _peak(run, device) for name, run in cases.items()}
    samples: dict[str, list[float]] = {name: [] for name in cases}
    watch = Stopwatch(device)
    for number in range(warm_up + rounds):
        for name, run in cases.items():
            watch.restart()
            for _ in range(calls):
                run()
            if number >= warm_up:
                samples[name].append(watch.ms() / calls)
    return {name: Timing(distribution(samples[name], "ms"), peaks[name]) for name in cases}


def _peak(run: Callable[[], object], device: torch.device) -> Meter:
    """On a CPU the process's peak says little of one call, so it stays unread."""
    if device.type != "cuda":
        return unavailable("memory of one call is read on CUDA only")
    run()  # what is compiled or tuned takes memory of its own
    before = torch.cuda.memory_allocated(device)
    with peak_memory(device) as peak:
        run()
        used = peak().used
    return scalar(int(used.value) - before, "bytes") if isinstance(used, Scalar) else used
