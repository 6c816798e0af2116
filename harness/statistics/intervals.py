"""Intervals: over examples for one run, over seeds for several. scipy does the mathematics."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SeedSummary:
    """A score over `n` seeds; `ci95` (of the mean) is None for fewer than two."""

    mean: float
    n: int
    ci95: tuple[float, float] | None


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion, in per cent, without continuity correction.

    Raises:
        ValueError: n below 1, or successes outside [0, n].
    Source: E. B. Wilson, JASA 22 (1927) 209-212.
    """
    from scipy.stats import binomtest

    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n and n >= 1, got {successes} of {n}")
    interval = binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)


def seed_summary(values: Sequence[float]) -> SeedSummary:
    """Mean over seeds with its 95 % interval by Student's t, which is wide for few seeds.

    Raises:
        ValueError: no values, or one is NaN or infinite.
    """
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"values must be one or more finite numbers, got {list(values)}")
    n, mean = len(values), statistics.fmean(values)
    if n < 2:
        return SeedSummary(mean=mean, n=n, ci95=None)
    from scipy.special import stdtrit

    # As statistics.stdev, whose fractions take twenty times as long.
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stdtrit(n - 1, 0.975)) * deviation / math.sqrt(n)
    return SeedSummary(mean=mean, n=n, ci95=(mean - half, mean + half))
