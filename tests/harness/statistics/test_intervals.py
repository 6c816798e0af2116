"""Intervals against published and hand-worked cases."""

from __future__ import annotations

import math

import pytest

from harness.statistics.intervals import seed_summary, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3 (score without continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((100 * low, 100 * high), abs=0.005)


def test_wilson_by_hand() -> None:
    z, n, p = 1.959963984540054, 4241, 3947 / 4241
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [100 * (centre + sign * half) / (1 + z * z / n) for sign in (-1, 1)]
    assert wilson(3947, 4241) == pytest.approx(expected, abs=1e-9)
    assert wilson(20, 20)[1] == 100.0


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_proportion(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="got"):
        wilson(successes, n)


def test_seed_summary_by_hand() -> None:
    summary = seed_summary([90.0, 92.0, 94.0])
    assert (summary.mean, summary.n) == (92.0, 3)
    half = 4.302652729911275 * 2 / math.sqrt(3)  # t(0.975, 2 degrees of freedom)
    assert summary.ci95 == pytest.approx((92 - half, 92 + half))


def test_one_seed_has_no_spread_and_equal_seeds_have_none() -> None:
    one = seed_summary([90.0])
    assert (one.mean, one.n, one.ci95) == (90.0, 1, None)
    assert seed_summary([90.0, 90.0]).ci95 == (90.0, 90.0)


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.inf]])
def test_seed_summary_refuses_what_is_no_number(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        seed_summary(values)
