"""Which methods of a table cannot be told apart from its best one: every pair is tested, with Holm's correction."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.detectable import detectable_mean_difference
from harness.example_scores import Scores
from harness.paired import Comparison, Incomparable, Samples, compare
from harness.record import Record
from harness.significance import ALPHA, holm
from harness.store import StoreError


@dataclass(frozen=True)
class Standing:
    """`best`: the best method and those that cannot be told apart from it, by their labels in the table.

    `detectable` is the difference from the best that the median pair would have shown with 80 % power, in the unit of
    the score; `p_values` are adjusted, by pair of labels.
    """

    best: frozenset[str]
    test: str
    detectable: float
    p_values: Mapping[tuple[str, str], float]


def standing(
    runs: Mapping[str, Sequence[Record]], means: Mapping[str, float], *, goal: Literal["max", "min"], scores: Scores
) -> Standing | str:
    """Test every pair of methods on the same examples.

    Args:
        runs: one record per seed of each method, by its label.
        means: its score.
        goal: whether the largest or the smallest is the best.
        scores: see `harness.example_scores.reader`.

    Returns:
        Or the reason why there is no test.
    """
    pairs, samples = list(itertools.combinations(sorted(runs), 2)), Samples(scores)
    try:
        found = {pair: compare(runs[pair[0]], runs[pair[1]], samples) for pair in pairs}
    except (Incomparable, StoreError) as error:
        return str(error)
    adjusted = dict(zip(pairs, holm([found[pair].p_value for pair in pairs]), strict=True))
    sign = -1 if goal == "max" else 1
    best = min(runs, key=lambda label: (sign * means[label], label))
    against = {label: _pair(best, label) for label in runs if label != best}
    return Standing(
        best=frozenset([best, *(label for label, pair in against.items() if adjusted[pair] > ALPHA)]),
        test=_tests(found),
        detectable=statistics.median(
            detectable_mean_difference(found[pair].difference.standard_error) for pair in against.values()
        ),
        p_values=adjusted,
    )


def _pair(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a < b else (b, a)


def _tests(found: Mapping[tuple[str, str], Comparison]) -> str:
    return ", ".join(sorted({comparison.test for comparison in found.values()}))
