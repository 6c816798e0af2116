"""Which methods of a table cannot be told apart from its best one: every pair is tested, with Holm's correction."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from harness.record import Record
from harness.statistics.example_scores import Scores
from harness.statistics.paired import Comparison, Incomparable, Samples, compare
from harness.statistics.significance import ALPHA, holm
from harness.store import StoreError

MOST_ROWS = 16
"""Of more rows not every pair is tested: they are too many to read, and the correction for so many finds nothing."""


@dataclass(frozen=True)
class Standing:
    """`best`: the best tested method and those that cannot be told apart from it, by their labels in the table.

    `detectable` is the difference from the best that the median pair would have shown with 80 % power, in the unit of
    the score, at the level that the first step of Holm's correction leaves each pair: infinite where no difference
    would have, None where it cannot be told. `p_values` are adjusted, by pair of labels. `left_out` says by label why
    a method was not tested.
    """

    best: frozenset[str]
    test: str
    detectable: float | None
    p_values: Mapping[tuple[str, str], float]
    left_out: Mapping[str, str] = field(default_factory=dict)


def standing(
    runs: Mapping[str, Sequence[Record]], means: Mapping[str, float], *, goal: Literal["max", "min"], scores: Scores
) -> Standing | str:
    """Test every pair of methods on the same examples, but for methods without scores by example.

    Args:
        runs: one record per seed of each method, by its label; of two methods or more.
        means: its score.
        goal: whether the largest or the smallest is the best.
        scores: see `harness.statistics.example_scores.reader`.

    Returns:
        Or the reason why there is no test.
    """
    if len(runs) > MOST_ROWS:
        return too_many(len(runs))
    samples = Samples(scores)
    why = {label: _unreadable(runs[label], samples) for label in sorted(runs)}
    left_out = {label: reason for label, reason in why.items() if reason}
    pairs = list(itertools.combinations([label for label in why if label not in left_out], 2))
    if not pairs:
        return next(iter(left_out.values()))
    try:
        found = {pair: compare(runs[pair[0]], runs[pair[1]], samples) for pair in pairs}
    except Incomparable as error:
        return str(error)
    adjusted = dict(zip(pairs, holm([found[pair].p_value for pair in pairs]), strict=True))
    sign = -1 if goal == "max" else 1
    best, *others = sorted(set(runs) - set(left_out), key=lambda label: (sign * means[label], label))
    against = {label: (best, label) if best < label else (label, best) for label in others}
    # Over the seeds that both have, another method may be better than the one with the best mean over all of its own.
    ahead = {label: sign * found[pair].by * (1 if pair[0] == best else -1) < 0 for label, pair in against.items()}
    return Standing(
        best=frozenset([best, *(label for label in others if adjusted[against[label]] > ALPHA or not ahead[label])]),
        test=", ".join(sorted({comparison.test for comparison in found.values()})),
        detectable=_detectable([found[pair] for pair in against.values()], ALPHA / len(pairs)),
        p_values=adjusted,
        left_out=left_out,
    )


def too_many(rows: int) -> str:
    """Why so many rows are not tested."""
    return f"a table of {rows} rows has too many pairs"


def _unreadable(runs: Sequence[Record], samples: Samples) -> str:
    """Why a method cannot be tested; empty where it can be."""
    try:
        samples.read(runs)
    except (Incomparable, StoreError) as error:
        return str(error)
    return ""


def _detectable(found: Sequence[Comparison], alpha: float) -> float | None:
    sizes = [size for comparison in found if (size := comparison.detectable(alpha)) is not None]
    return statistics.median(sizes) if sizes else None
