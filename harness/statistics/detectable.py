"""The smallest difference between two methods that a comparison would probably have found, printed under tables.

For accuracy by the power of the exact McNemar test, for means by their standard error; see
`harness.statistics.significance`.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.statistics.significance import ALPHA

if TYPE_CHECKING:
    from numpy.typing import NDArray

POWER = 0.8
# What lies outside of the counts that are looked at has at most this probability.
_LOST = 1e-12


def detectable_difference(n: int, discordance: float, *, alpha: float = ALPHA, power: float = POWER) -> float | None:
    """The smallest difference in accuracy that `mcnemar` finds at two-sided `alpha` with `power`, in percentage points.

    Of n questions, M ~ Binomial(n, q) are answered right by exactly one method, X ~ Binomial(M, (1 - d / q) / 2) of
    them by the worse one; q is the discordance. The smallest d is solved for at which the test rejects, in favour of
    the better one, with probability `power`. As d cannot exceed q, a larger d means q = d: all M then speak for one
    method. For many questions d approaches Connor's n d^2 = (z[1-alpha/2] sqrt(q) + z[power] sqrt(q - d^2))^2.

    Args:
        n: questions that both methods answered.
        discordance: share of them in [0, 1] that exactly one method gets right.

    Returns:
        None where not even 100 points would be found: for n below 6 at the usual alpha.

    Raises:
        ValueError: n below 1, discordance outside [0, 1], or not 0 < alpha < power < 1.
    Source: unconditional power of the exact test as in SAS/STAT PROC POWER, PAIREDFREQ, DIST=EXACT_COND; R. J. Connor,
        Biometrics 43 (1987) 207-211.
    """
    from scipy.optimize import brentq

    _check_levels(alpha, power)
    if n < 1 or not 0 <= discordance <= 1:
        raise ValueError(f"need n >= 1 and a discordance in [0, 1], got n {n} and discordance {discordance}")
    if _mcnemar_power(n, discordance, 1.0, alpha) < power:
        return None
    solution = brentq(lambda d: _mcnemar_power(n, discordance, d, alpha) - power, 1e-12, 1.0, xtol=1e-9)
    return 100 * float(solution)


def detectable_mean_difference(standard_error: float, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest difference of means found at two-sided `alpha` with `power`, in the unit of the standard error.

    (z[1-alpha/2] + z[power]) * standard_error, that is 2.80 standard errors by default.

    Args:
        standard_error: of the paired difference, as `paired_bootstrap` gives it.

    Raises:
        ValueError: the standard error is negative, NaN or infinite, or not 0 < alpha < power < 1.
    Source: H. S. Bloom, Evaluation Review 19 (1995) 547-556.
    """
    from scipy.special import ndtri

    _check_levels(alpha, power)
    if not 0 <= standard_error < math.inf:
        raise ValueError(f"standard_error must be a finite number from 0, got {standard_error}")
    return float(ndtri(power) - ndtri(alpha / 2)) * standard_error


def _mcnemar_power(n: int, discordance: float, difference: float, alpha: float) -> float:
    """The probability that the exact test of n pairs rejects in favour of a method better by `difference` > 0."""
    share = max(discordance, difference)
    m = _likely(n, share)
    rejected = _cdf(_critical(n, alpha)[m], m, (1 - difference / share) / 2)
    return float((_pmf(m, n, share) * rejected).sum())


def _likely(n: int, share: float) -> NDArray[np.int64]:
    """The counts that a binomial variable takes but for a probability of `_LOST`, by Bernstein's inequality."""
    third = math.log(2 / _LOST) / 3
    reach = third + math.sqrt(third**2 + 6 * third * n * share * (1 - share))
    return np.arange(max(0, math.floor(n * share - reach)), min(n, math.ceil(n * share + reach)) + 1)


@functools.lru_cache(maxsize=8)
def _critical(n: int, alpha: float) -> NDArray[np.int64]:
    """[n + 1]: up to which count the exact test of m = 0 ... n discordant pairs rejects; -1 where it never does."""
    from scipy.special import ndtri

    m = np.arange(n + 1)
    found = np.clip(np.floor((m + ndtri(alpha / 2) * np.sqrt(m)) / 2), -1, m).astype(np.int64)
    # The normal approximation is at most a few counts off.
    while (high := _cdf(found, m, 0.5) > alpha / 2).any():
        found[high] -= 1
    while (low := _cdf(found + 1, m, 0.5) <= alpha / 2).any():
        found[low] += 1
    return found


def _cdf(k: NDArray[np.int64], n: NDArray[np.int64], p: float) -> NDArray[np.float64]:
    """P(X <= k) of a binomial variable, zero for k = -1."""
    from scipy.special import bdtr

    return np.where(k < 0, 0.0, bdtr(np.clip(k, 0, n).astype(np.float64), n, p))


def _pmf(k: NDArray[np.int64], n: int, p: float) -> NDArray[np.float64]:
    """P(X = k) of a binomial variable."""
    from scipy.special import gammaln, xlog1py, xlogy

    ways: NDArray[Any] = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return np.asarray(np.exp(ways + xlogy(k, p) + xlog1py(n - k, -p)), np.float64)


def _check_levels(alpha: float, power: float) -> None:
    if not 0 < alpha < power < 1:
        raise ValueError(f"need 0 < alpha < power < 1, got alpha {alpha} and power {power}")
