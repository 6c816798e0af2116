"""Whether two methods differ, on the same examples: exact McNemar, the paired bootstrap by clusters, Holm.

Scores that are means over examples (accuracy, recall, CIDEr) fit; what a difference must be to be found is in
`harness.statistics.detectable`. scipy does the mathematics where it can; its bootstrap knows no clusters.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = Sequence[float] | NDArray[Any]

ALPHA = 0.05
RESAMPLES = 10_000

# Cluster numbers drawn at once: these and what they select stay in the cache of one core.
_DRAWN_AT_ONCE = 1 << 16
# What was drawn is kept for the next method of a table up to 128 MB; beyond, it is drawn again.
_MOST_KEPT = 1 << 26


@dataclass(frozen=True)
class PairedDifference:
    """Mean of A minus mean of B over `n` examples in `clusters` clusters, in the unit of the scores."""

    difference: float
    ci95: tuple[float, float]
    p_value: float
    standard_error: float
    n: int
    clusters: int


def mcnemar(a_correct: Numbers, b_correct: Numbers) -> float:
    """Two-sided exact McNemar p-value of equal accuracy, from right (1) and wrong (0) answers to the same questions.

    Of the questions that exactly one of two equally good methods gets right, either has half: a binomial test. As
    counts are whole numbers it is conservative: it calls 4.1 % of ties different with 20 such questions, 4.7 % with
    2,000, and never more than 5 %.

    The caller pools seeds by concatenating the pairs of each. The test then takes the answers to one question under
    several seeds for independent. Where methods differ in which questions they are good at, whatever the seed, it
    rejects too often: in simulations 12 to 14 % of ties with three seeds, 22 % with five. `paired_bootstrap` on the
    same 0 and 1 with the question (or its image) as cluster does not.

    Args:
        a_correct, b_correct: [n] bool or 0 and 1, in the same order of questions.

    Raises:
        ValueError: no answers, of different length, or other than 0 and 1.
    Source: Q. McNemar, Psychometrika 12 (1947) 153-157; the exact form as in Fagerland et al., BMC Medical Research
        Methodology 13 (2013) 91, equation 1.
    """
    from scipy.special import bdtr

    a, b = _numbers("a_correct", a_correct), _numbers("b_correct", b_correct)
    _same_length(a_correct=a, b_correct=b)
    if not np.isin([a, b], (0, 1)).all():
        raise ValueError("answers must be right (1, True) or wrong (0, False)")
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    # The binomial distribution of one half is symmetric: both tails are the same.
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5))) if only_a + only_b else 1.0


def paired_bootstrap(
    a: Numbers, b: Numbers, clusters: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> PairedDifference:
    """The difference of two means over the same examples, with its 95 % interval and two-sided p-value.

    Whole clusters are drawn with replacement, because examples that share an image are not independent; the mean of
    a resample is its sum over its number of examples. With D the difference and D* that of a resample,

        p = (1 + #{|D* - D| >= |D|}) / (resamples + 1),

    and the interval is the D +- h that leaves out zero exactly where p <= 0.05. Centring makes the resamples follow
    the null hypothesis: 5 % of ties are called different from 50 clusters on, where counting the resamples beyond
    zero gives 5 to 7 %. As with any bootstrap of a mean the p-value is too small for few clusters (20: 6 to 8 % of
    ties, 10: 8 to 10 %). It is about these trained models and more images, not about more seeds.

    Args:
        a, b: [n] scores of each example under A and B. Pooled seeds are concatenated.
        clusters: [n] id of the image that each example is about; for pooled seeds the same in every seed.
        resamples: how many resamples, 19 or more (fewer cannot reach p = 0.05).
        seed: of the resamples; the order of the examples and which method is A do not change what is drawn.

    Raises:
        ValueError: no examples, lengths that differ, NaN or infinite scores, one cluster, or too few resamples.
    Source: P. Hall and S. R. Wilson, Biometrics 47 (1991) 757-762, first guideline (centring); A. C. Davison and D. V.
        Hinkley, Bootstrap Methods and their Application (1997), chapter 4 (p-value).
    """
    first, second = _numbers("a", a), _numbers("b", b)
    _same_length(a=first, b=second, clusters=clusters)
    return difference(*(resampled(values, clusters, resamples=resamples, seed=seed) for values in (first, second)))


@dataclass(frozen=True)
class Resampled:
    """A mean, and the means of its resamples; of the same clusters and seed they are drawn alike for every method."""

    mean: float
    means: NDArray[np.float64]
    largest: float
    n: int
    clusters: int


def resampled(values: Numbers, clusters: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0) -> Resampled:
    """What `paired_bootstrap` makes of each of its two methods; of many methods each needs it once.

    Raises:
        ValueError: as `paired_bootstrap`.
    """
    numbers = _numbers("values", values)
    _same_length(values=numbers, clusters=clusters)
    means, count = _resampled_means(numbers, clusters, resamples, seed)
    return Resampled(float(numbers.mean()), means, float(np.abs(numbers).max()), len(numbers), count)


def difference(a: Resampled, b: Resampled) -> PairedDifference:
    """See `paired_bootstrap`; both must be of the same examples in the same order, drawn with the same seed.

    Raises:
        ValueError: they are not of as many examples, clusters and resamples.
    """
    if (a.n, a.clusters, len(a.means)) != (b.n, b.clusters, len(b.means)):
        raise ValueError(f"resamples of {a.n} and {b.n} examples cannot be paired")
    observed, means = a.mean - b.mean, a.means - b.means
    deviations = np.abs(means - observed)
    # Sums of the same scores in another order may differ in the last digits, and that must not break a tie.
    slack = 1e-12 * max(a.largest, b.largest)
    extreme = int((deviations >= abs(observed) - slack).sum())
    half = float(np.sort(deviations)[-math.floor(ALPHA * (len(means) + 1))])
    return PairedDifference(
        difference=observed,
        ci95=(observed - half, observed + half),
        p_value=(1 + extreme) / (len(means) + 1),
        standard_error=float(means.std(ddof=1)),
        n=a.n,
        clusters=a.clusters,
    )


def bootstrap_interval(
    values: Numbers, clusters: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile interval of a mean, in the unit of the values, from the resamples of `paired_bootstrap`.

    It has no test to agree with, and percentiles never leave the scale of the values (0 to 100).

    Args:
        values: [n] score of each example.
        clusters: [n] id of the image that each example is about.
        resamples, seed: as in `paired_bootstrap`.

    Raises:
        ValueError: as `paired_bootstrap`.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), 13.3.
    """
    numbers = _numbers("values", values)
    _same_length(values=numbers, clusters=clusters)
    means, _ = _resampled_means(numbers, clusters, resamples, seed)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given; those at most alpha are the rejections at alpha.

    Raises:
        ValueError: no p-values, or one outside [0, 1].
    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    if not len(p_values) or not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p_values must be one or more numbers in [0, 1], got {list(p_values)}")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * float(p_values[index])))
        adjusted[index] = largest
    return adjusted


def _resampled_means(
    values: NDArray[np.float64], clusters: Sequence[str], resamples: int, seed: int
) -> tuple[NDArray[np.float64], int]:
    """The mean of each resample of whole clusters ([resamples]), and how many clusters there are."""
    if resamples < 19:
        raise ValueError(f"resamples must be 19 or more, got {resamples}")
    number = {name: index for index, name in enumerate(sorted(set(clusters)))}
    if len(number) < 2:
        raise ValueError(f"all {len(values)} examples are of one cluster, whose mean has no spread to estimate")
    of = np.fromiter((number[name] for name in clusters), np.intp, len(values))
    sums, sizes = np.bincount(of, weights=values), np.bincount(of)
    weights = _kept_weights if len(number) * resamples <= _MOST_KEPT else _weights
    parts = (part.astype(np.float64, copy=False) for part in weights(len(number), resamples, seed))
    if (sizes == sizes[0]).all():
        # Every resample then has as many examples as there are.
        return np.concatenate([part @ sums for part in parts]) / len(values), len(number)
    return np.concatenate([(part @ sums) / (part @ sizes) for part in parts]), len(number)


@functools.lru_cache(maxsize=1)
def _kept_weights(clusters: int, resamples: int, seed: int) -> list[NDArray[Any]]:
    """As `_weights`; the methods of a table have the same clusters, and drawing takes longer than all else.

    A few are kept as they are multiplied, which takes four times the memory.
    """
    drawn = _weights(clusters, resamples, seed)
    return [part.astype(np.float64) for part in drawn] if clusters * resamples <= _MOST_KEPT // 16 else list(drawn)


def _weights(clusters: int, resamples: int, seed: int) -> Iterator[NDArray[np.uint16]]:
    """How often each resample holds each cluster: [resamples, clusters], in parts of a few rows."""
    generator = np.random.default_rng(seed)
    rows = max(1, _DRAWN_AT_ONCE // clusters)
    for start in range(0, resamples, rows):
        drawn = generator.integers(clusters, size=(min(rows, resamples - start), clusters))
        held = (drawn + clusters * np.arange(len(drawn))[:, None]).ravel()
        yield np.bincount(held, minlength=held.size).astype(np.uint16).reshape(drawn.shape)


def _numbers(name: str, values: Numbers) -> NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not numbers.size:
        raise ValueError(f"{name} must be one or more numbers in one dimension, got shape {numbers.shape}")
    odd = np.flatnonzero(~np.isfinite(numbers))
    if odd.size:
        raise ValueError(f"{name} must be finite, got {numbers[odd[0]]} at index {odd[0]}")
    return numbers


def _same_length(**columns: NDArray[np.float64] | Sequence[str]) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"lengths differ: {', '.join(f'{name} {length}' for name, length in lengths.items())}")
