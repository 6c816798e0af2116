"""Tests between methods against hand-worked, published and enumerated cases, and how often they call a tie a win."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from scipy import optimize, stats

from harness.statistics import significance
from harness.statistics.detectable import detectable_difference, detectable_mean_difference
from harness.statistics.significance import bootstrap_interval, holm, mcnemar, paired_bootstrap

TRIALS = 2000


def answers(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Right and wrong answers of two methods with these counts."""
    pairs = [(True, True)] * both + [(True, False)] * only_a + [(False, True)] * only_b + [(False, False)] * neither
    return [a for a, _ in pairs], [b for _, b in pairs]


def names(clusters: int, times: int = 1) -> list[str]:
    """Cluster ids, each `times` times."""
    return [f"image{index}" for index in range(clusters) for _ in range(times)]


@pytest.mark.parametrize(
    ("table", "p"),
    [
        # Bentur et al. as in Fagerland, Lydersen, Laake, BMC Medical Research Methodology 13 (2013) 91: 0.0703.
        ((1, 1, 7, 12), 18 / 256),
        ((40, 6, 0, 2), 2 / 64),
        ((0, 0, 5, 0), 2 / 32),
        ((21, 9, 2, 12), 2 * (1 + 11 + 55) / 2048),
        ((3, 4, 4, 3), 1.0),
        ((10, 0, 0, 5), 1.0),
    ],
)
def test_mcnemar_by_hand(table: tuple[int, int, int, int], p: float) -> None:
    a, b = answers(*table)
    assert mcnemar(a, b) == pytest.approx(p, abs=1e-12)
    assert mcnemar(np.array(b, dtype=int), np.array(a, dtype=int)) == pytest.approx(p, abs=1e-12)


# Agresti, Categorical Data Analysis (1990) p. 350, approval of a president in two surveys; and larger counts.
@pytest.mark.parametrize("table", [(794, 150, 86, 570), (3000, 301, 250, 690), (0, 1, 40, 0)])
def test_mcnemar_agrees_with_the_binomial_test(table: tuple[int, int, int, int]) -> None:
    _, only_a, only_b, _ = table
    tail = sum(math.comb(only_a + only_b, k) for k in range(min(only_a, only_b) + 1))
    assert mcnemar(*answers(*table)) == pytest.approx(stats.binomtest(only_b, only_a + only_b).pvalue, rel=1e-9)
    assert mcnemar(*answers(*table)) == pytest.approx(2 * tail / 2 ** (only_a + only_b), rel=1e-9)


def test_mcnemar_never_calls_more_than_5_percent_of_ties_different() -> None:
    """Counts are whole numbers, so that the most extreme ones with 5 % together mostly have less: it is conservative.

    The sizes are exact: the probability of all counts with p <= 0.05, given how many questions differ.
    """
    size = {}
    for m in (1, 5, 6, 20, 25, 50, 500):
        rejected = [k for k in range(m + 1) if mcnemar(*answers(0, k, m - k, 0)) <= 0.05]
        size[m] = sum(stats.binom.pmf(k, m, 0.5) for k in rejected)
    assert max(size.values()) <= 0.05
    assert (size[5], size[6]) == (0, pytest.approx(2 / 64))
    assert size[20] == pytest.approx(0.0414, abs=5e-5)


@pytest.mark.parametrize(
    ("questions", "discordance", "low", "high"),
    # With 2,000 questions that differ the steps between p-values are small: the exact rate is 4.7 %.
    [(300, 0.1, 1.0, 6.5), (2000, 1.0, 3.5, 6.5)],
)
def test_mcnemar_on_ties(questions: int, discordance: float, low: float, high: float) -> None:
    rng = np.random.default_rng(1)
    rejected = 0
    for _ in range(TRIALS):
        both, differ, first = (rng.random(questions) < share for share in (0.7, discordance, 0.5))
        a, b = np.where(differ, first, both), np.where(differ, ~first, both)
        rejected += mcnemar(a, b) <= 0.05
    assert low <= 100 * rejected / TRIALS <= high


def test_paired_bootstrap_is_the_enumerated_bootstrap() -> None:
    """Three images with 2, 1 and 3 captions have 27 resamples, whose ratios of sums give the exact p-value."""
    a, b = [3.0, 2.0, 1.0, 4.0, 4.0, 2.0], [1.0, 1.0, 2.0, 1.0, 2.0, 2.0]
    sums, sizes, difference = (3, -1, 5), (2, 1, 3), 7 / 6
    means = [
        sum(sums[i] for i in drawn) / sum(sizes[i] for i in drawn) for drawn in itertools.product(range(3), repeat=3)
    ]
    exact = sum(abs(mean - difference) >= abs(difference) - 1e-12 for mean in means) / 27
    result = paired_bootstrap(a, b, ["x", "x", "y", "z", "z", "z"])
    assert result.difference == pytest.approx(difference)
    assert (result.n, result.clusters) == (6, 3)
    assert result.p_value == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 10_000))
    assert result.standard_error == pytest.approx(np.std(means), rel=0.04)


def test_paired_bootstrap_agrees_with_the_normal_interval_and_test() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(1.0, 2.0, 2000), rng.normal(0.9, 2.0, 2000)
    difference, error = (a - b).mean(), (a - b).std() / math.sqrt(2000)
    result = paired_bootstrap(a, b, names(2000))
    # Four standard errors of a 95 % quantile and of a standard deviation from 10,000 resamples.
    assert result.ci95 == pytest.approx((difference - 1.96 * error, difference + 1.96 * error), abs=4 * 0.019 * error)
    assert result.standard_error == pytest.approx(error, rel=4 * 0.0071)
    p = 2 * stats.norm.sf(abs(difference) / error)
    assert result.p_value == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 10_000))


def test_examples_of_one_image_count_as_one() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=100), rng.normal(size=100)
    once = paired_bootstrap(a, b, names(100))
    five_times = paired_bootstrap(np.repeat(a, 5), np.repeat(b, 5), names(100, times=5))
    alone = paired_bootstrap(np.repeat(a, 5), np.repeat(b, 5), names(500))
    assert five_times.ci95 == pytest.approx(once.ci95, abs=1e-12)
    assert (five_times.p_value, five_times.n, five_times.clusters) == (once.p_value, 500, 100)
    assert alone.standard_error == pytest.approx(once.standard_error / math.sqrt(5), rel=0.04)


def test_unequal_clusters_have_the_standard_error_of_a_ratio() -> None:
    rng = np.random.default_rng(4)
    sizes = rng.integers(1, 9, 1000)
    of = np.repeat(np.arange(1000), sizes)
    values = rng.normal(size=1000)[of] + rng.normal(0.2, 1.0, len(of))
    residuals = np.bincount(of, values) - values.mean() * sizes
    # Cochran, Sampling Techniques (1977) section 6.3.
    error = math.sqrt((residuals**2).sum()) / sizes.sum()
    result = paired_bootstrap(values, np.zeros(len(of)), [f"image{index}" for index in of])
    assert result.standard_error == pytest.approx(error, rel=0.03)


def test_resamples_depend_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    a, b, clusters = rng.integers(0, 2, 300), rng.integers(0, 2, 300), names(60, times=5)
    first = paired_bootstrap(a, b, clusters, resamples=999)
    assert paired_bootstrap(a, b, clusters, resamples=999) == first
    assert paired_bootstrap(a, b, clusters, resamples=999, seed=1).standard_error != first.standard_error
    order = rng.permutation(300)
    assert paired_bootstrap(a[order], b[order], [clusters[i] for i in order], resamples=999) == first
    swapped = paired_bootstrap(b, a, clusters, resamples=999)
    assert (swapped.difference, swapped.p_value) == (-first.difference, first.p_value)
    assert swapped.ci95 == (-first.ci95[1], -first.ci95[0])
    monkeypatch.setattr(significance, "_MOST_KEPT", 0)
    assert paired_bootstrap(a, b, clusters, resamples=999) == first
    monkeypatch.undo()
    for at_once in (1, 700, 1 << 30):
        monkeypatch.setattr(significance, "_DRAWN_AT_ONCE", at_once)
        significance._kept_weights.cache_clear()
        assert paired_bootstrap(a, b, clusters, resamples=999) == first


def test_equal_scores_differ_in_nothing() -> None:
    scores = np.random.default_rng(6).random(50)
    result = paired_bootstrap(scores, scores, names(50))
    assert (result.difference, result.ci95, result.p_value, result.standard_error) == (0.0, (0.0, 0.0), 1.0, 0.0)
    # The sums of an image are equal but for their rounding: 0.1 + 0.2 is not 0.3.
    rounded = paired_bootstrap([0.1, 0.2] * 20, [0.3, 0.0] * 20, names(20, times=2))
    assert (abs(rounded.difference) < 1e-12, rounded.p_value) == (True, 1.0)


def test_the_interval_leaves_out_zero_exactly_where_the_test_rejects() -> None:
    rng = np.random.default_rng(7)
    results = [
        paired_bootstrap(rng.normal(0.2, 1, 80), rng.normal(0, 1, 80), names(40, times=2), resamples=resamples)
        for resamples in (19, 499, 1000)
        for _ in range(60)
    ]
    rejected = [result.p_value <= 0.05 for result in results]
    assert rejected == [not result.ci95[0] <= 0 <= result.ci95[1] for result in results]
    assert 0 < sum(rejected) < len(rejected)


def test_memory_does_not_grow_with_the_resamples() -> None:
    a, b, clusters = np.arange(20_000.0), np.zeros(20_000), names(20_000)
    tracemalloc.start()
    paired_bootstrap(a, b, clusters, resamples=4000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All at once would be 4,000 x 20,000 numbers of 8 bytes, three times.
    assert peak < 10e6


def captions(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Per-image CIDEr of two methods: skewed, and in common how hard an image is."""
    hardness = rng.gamma(1.0, 60.0, 200)
    return hardness * rng.lognormal(0, 0.4, 200), hardness * rng.lognormal(0, 0.4, 200), names(200)


def recall(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Hits of five captions per image; the captions of an image tend to be found together."""
    image = rng.normal(size=(100, 1))
    caption = rng.normal(size=(100, 5))
    a, b = (image + caption + rng.normal(0, 0.7, (100, 1)) + rng.normal(0, 0.5, (100, 5)) > 0 for _ in "ab")
    return 100.0 * a.ravel(), 100.0 * b.ravel(), names(100, times=5)


def unequal(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """As `recall`, with one to eight questions per image."""
    of = np.repeat(np.arange(150), rng.integers(1, 9, 150))
    image = rng.normal(size=150)
    a, b = ((image + rng.normal(0, 0.7, 150))[of] + rng.normal(size=len(of)) > 0 for _ in "ab")
    return a.astype(float), b.astype(float), [f"image{index}" for index in of]


def pooled_seeds(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Three seeds over 200 questions; each method has questions of its own that it tends to get right."""
    hardness = rng.normal(1.0, 1.5, 200)
    a, b = ((np.tile(hardness + rng.normal(0, 2.0, 200), 3) + rng.logistic(size=600) > 0).astype(float) for _ in "ab")
    return a, b, names(200) * 3


@pytest.mark.parametrize("ties", [captions, recall, unequal, pooled_seeds])
def test_paired_bootstrap_calls_5_percent_of_ties_different(
    ties: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray, list[str]]],
) -> None:
    rng = np.random.default_rng(8)
    p = np.array([paired_bootstrap(*ties(rng), resamples=199, seed=trial).p_value for trial in range(TRIALS)])
    assert 100 * (p <= 0.05).mean() == pytest.approx(5, abs=1.5)


def test_pooled_seeds_mislead_mcnemar() -> None:
    rng = np.random.default_rng(9)
    rejected = sum(mcnemar(*pooled_seeds(rng)[:2]) <= 0.05 for _ in range(TRIALS))
    assert 100 * rejected / TRIALS > 7


def test_bootstrap_interval_agrees_with_the_normal_one_and_with_scipy() -> None:
    values = np.random.default_rng(10).normal(50.0, 10.0, 1500)
    error = values.std() / math.sqrt(len(values))
    interval = bootstrap_interval(values, names(1500))
    # Four standard errors of a 2.5 % quantile from 10,000 resamples.
    assert interval == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=4 * 0.027 * error
    )
    theirs = stats.bootstrap((values,), np.mean, n_resamples=9999, method="percentile", batch=100, rng=0)
    assert interval == pytest.approx(tuple(theirs.confidence_interval), abs=4 * 0.027 * 2**0.5 * error)


def test_bootstrap_interval_stays_on_the_scale_and_knows_clusters() -> None:
    hits = [100.0] * 199 + [0.0]
    low, high = bootstrap_interval(hits, names(200))
    assert 98 < low < 99.5 == np.mean(hits)
    assert high == 100
    assert bootstrap_interval([100.0] * 9, names(9)) == (100, 100)
    wide, narrow = (bootstrap_interval([0.0] * 50 + [1.0] * 50, ids) for ids in (names(10, times=10), names(100)))
    assert wide[0] < narrow[0] < 0.5 < narrow[1] < wide[1]


def test_bootstrap_interval_covers_the_mean() -> None:
    rng = np.random.default_rng(11)
    covered = 0
    for trial in range(TRIALS):
        image = np.repeat(rng.normal(size=100), 5)
        low, high = bootstrap_interval(image + rng.normal(size=500), names(100, 5), resamples=500, seed=trial)
        covered += low <= 0 <= high
    assert 100 * covered / TRIALS == pytest.approx(95, abs=1.5)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        # The example of Wikipedia's article on the Holm-Bonferroni method: at 0.05 the first and the last are rejected.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.7, 0.6, 0.02], [1.0, 1.0, 0.06]),
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        ([0.0, 1.0], [0.0, 1.0]),
    ],
)
def test_holm_by_hand(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted, abs=1e-12)


def connor(n: int, discordance: float) -> float:
    """The difference in percentage points that solves Connor's formula (Biometrics 43 (1987) 207-211)."""
    alpha, power = stats.norm.isf(0.025), stats.norm.ppf(0.8)

    def excess(d: float) -> float:
        return math.sqrt(n) * d - alpha * math.sqrt(discordance) - power * math.sqrt(discordance - d * d)

    return 100 * float(optimize.brentq(excess, 1e-9, discordance))


@pytest.mark.parametrize(("n", "discordance", "rel"), [(200, 0.2, 0.04), (4241, 0.1, 0.02), (1_000_000, 0.1, 0.002)])
def test_detectable_difference_approaches_the_formula_of_connor(n: int, discordance: float, rel: float) -> None:
    ours = detectable_difference(n, discordance)
    assert ours == pytest.approx(connor(n, discordance), rel=rel)
    # The formula is that of the test with a normal distribution, which rejects a little more often than the exact one.
    assert ours is not None
    assert ours > connor(n, discordance)


def test_detectable_difference_by_hand() -> None:
    # Six questions are called different only if all six differ, in favour of one method: d ** 6 = 0.8.
    assert detectable_difference(6, 0.1) == pytest.approx(100 * 0.8 ** (1 / 6), abs=1e-6)
    assert detectable_difference(5, 1.0) is None
    found = [detectable_difference(n, 0.1) for n in (50, 200, 1000, 5000)]
    assert found == sorted(found, key=lambda d: -(d or 0))
    # Where nothing differs, d is the share that would have to: about eight of the questions, all for one method.
    assert detectable_difference(1000, 0.0) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("alpha", [0.05, 0.005])
@pytest.mark.parametrize(("n", "discordance"), [(7, 0.0), (30, 0.9), (400, 0.2), (4241, 0.07)])
def test_detectable_difference_has_the_power_that_scipy_computes(n: int, discordance: float, alpha: float) -> None:
    found = detectable_difference(n, discordance, alpha=alpha)
    if found is None:
        assert n == 7
        assert stats.binomtest(0, 7).pvalue > alpha
        return
    share = max(discordance, found / 100)
    m = np.arange(n + 1)
    # The largest count of wins of the worse method at which scipy's test rejects, from its own distribution.
    critical = stats.binom.ppf(alpha / 2, m, 0.5)
    critical = np.where(stats.binom.cdf(critical, m, 0.5) > alpha / 2, critical - 1, critical)
    rejected = stats.binom.cdf(critical, m, (1 - found / 100 / share) / 2)
    assert (stats.binom.pmf(m, n, share) * rejected).sum() == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize(("n", "discordance"), [(100, 0.3), (1000, 0.1)])
def test_mcnemar_finds_80_percent_of_detectable_differences(n: int, discordance: float) -> None:
    found = detectable_difference(n, discordance)
    assert found is not None
    better = (discordance + found / 100) / 2
    rng = np.random.default_rng(12)
    rejected = 0
    for _ in range(TRIALS):
        chance = rng.random(n)
        rejected += (
            mcnemar(chance >= discordance - better, (chance < discordance - better) | (chance > discordance)) <= 0.05
        )
    assert 100 * rejected / TRIALS == pytest.approx(80, abs=3)


def test_paired_bootstrap_finds_80_percent_of_detectable_differences() -> None:
    assert detectable_mean_difference(1.0) == pytest.approx(2.8016, abs=5e-5)  # Bloom (1995) says 2.8
    shift = detectable_mean_difference(1 / math.sqrt(200))
    rng = np.random.default_rng(13)
    p = [
        paired_bootstrap(rng.normal(shift, 1, 200), np.zeros(200), names(200), resamples=199, seed=trial).p_value
        for trial in range(TRIALS)
    ]
    assert 100 * np.mean(np.array(p) <= 0.05) == pytest.approx(80, abs=3)


@pytest.mark.parametrize("methods", [2, 5, 10])
def test_of_equal_methods_no_pair_differs_in_95_percent_of_tables(methods: int) -> None:
    """Normal errors of one, every pair tested; as pairs share methods, it may be fewer than 5 %."""
    rng = np.random.default_rng(14)
    lost = 0
    for _ in range(TRIALS):
        scores = rng.normal(size=methods)
        pairs = itertools.combinations(scores, 2)
        lost += min(holm([math.erfc(abs(one - other) / 2) for one, other in pairs])) <= 0.05
    assert 5 - 2.5 < 100 * lost / TRIALS < 5 + 1.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mcnemar([], []), "a_correct must be one or more"),
        (lambda: mcnemar([True], [True, False]), "lengths differ: a_correct 1, b_correct 2"),
        (lambda: mcnemar([0.5], [1]), "right"),
        (lambda: mcnemar([1], [math.nan]), "b_correct must be finite, got nan at index 0"),
        (lambda: mcnemar(np.ones((2, 2)), np.ones((2, 2))), r"got shape \(2, 2\)"),
        (lambda: paired_bootstrap([], [], []), "a must be one or more"),
        (lambda: paired_bootstrap([1.0, 2.0], [1.0], ["x", "y"]), "lengths differ: a 2, b 1, clusters 2"),
        (lambda: paired_bootstrap([1.0, 2.0], [1.0, 3.0], ["x"]), "lengths differ: a 2, b 2, clusters 1"),
        (lambda: paired_bootstrap([1.0, math.nan], [1.0, 3.0], ["x", "y"]), "a must be finite, got nan at index 1"),
        (lambda: paired_bootstrap([1.0, 2.0], [math.inf, 3.0], ["x", "y"]), "b must be finite, got inf at index 0"),
        (lambda: paired_bootstrap([1.0, 2.0], [1.0, 3.0], ["x", "x"]), "all 2 examples are of one cluster"),
        (lambda: paired_bootstrap([1.0, 2.0], [1.0, 3.0], ["x", "y"], resamples=18), "19 or more, got 18"),
        (lambda: bootstrap_interval([1.0], ["x"]), "one cluster"),
        (lambda: holm([]), "one or more"),
        (lambda: holm([0.1, 1.1]), "1.1"),
        (lambda: holm([math.nan]), "nan"),
        (lambda: detectable_difference(0, 0.1), "n >= 1"),
        (lambda: detectable_difference(10, math.nan), "discordance nan"),
        (lambda: detectable_difference(10, 0.1, alpha=0), "alpha 0"),
        (lambda: detectable_difference(10, 0.1, power=0.05), "power 0.05"),
        (lambda: detectable_mean_difference(-1.0), "got -1.0"),
        (lambda: detectable_mean_difference(math.nan), "got nan"),
        (lambda: detectable_mean_difference(1.0, power=1.0), "power 1.0"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
