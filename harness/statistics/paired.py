"""Two methods on the same examples: seeds pooled, exact McNemar for one seed of right and wrong, else the bootstrap."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.record import Record
from harness.statistics.detectable import detectable_difference, detectable_mean_difference
from harness.statistics.example_scores import FEWEST_GROUPS, Scores
from harness.statistics.significance import PairedDifference, Resampled, difference, mcnemar, resampled

MCNEMAR = "exact McNemar test"
BOOTSTRAP = "paired bootstrap by picture or question"


class Incomparable(ValueError):
    """Runs that have no examples in common to compare on; says why in one line."""


@dataclass(frozen=True)
class Sample:
    """The scores of one method, seeds pooled, in the order of seeds and ids."""

    runs: tuple[Record, ...]
    ids: list[list[str]]
    groups: list[str]
    values: list[float]

    @functools.cached_property
    def resampled(self) -> Resampled:
        """For the bootstrap, once for all comparisons."""
        return resampled(self.values, self.groups)

    @functools.cached_property
    def clusters(self) -> int:
        """How many pictures or questions the examples are of."""
        return len(set(self.groups))

    @functools.cached_property
    def mean(self) -> float:
        """Of all scores."""
        return float(np.mean(self.values))

    @functools.cached_property
    def answers(self) -> list[bool] | None:
        """Right and wrong, where each example is a question of its own; None for other scores, or several seeds."""
        once = len(self.ids) == 1 and self.clusters == len(self.values)
        return [value > 0 for value in self.values] if once and set(self.values) <= {0.0, 100.0} else None


@dataclass(frozen=True)
class Comparison:
    """A against B: the p-value and its test. What is not asked for is not computed."""

    p_value: float
    test: str
    first: Sample
    second: Sample

    @property
    def a(self) -> tuple[Record, ...]:
        """The runs of A, each paired with one of `b`."""
        return self.first.runs

    @property
    def b(self) -> tuple[Record, ...]:
        """The runs of B."""
        return self.second.runs

    @property
    def by(self) -> float:
        """Mean of A minus mean of B, in the unit of the primary score."""
        return self.first.mean - self.second.mean

    @functools.cached_property
    def difference(self) -> PairedDifference:
        """By the bootstrap, whichever the test was."""
        return difference(self.first.resampled, self.second.resampled)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of `by`: the bootstrap's 95 % interval; None where there are too few pictures or questions for one."""
        return self.difference.ci95 if self.first.clusters >= FEWEST_GROUPS else None

    def detectable(self, alpha: float) -> float | None:
        """The smallest difference that this test would have found at `alpha` with 80 % power, in the score's unit.

        Infinite where there is none; None where it cannot be told, as both score the same on every example.
        """
        if self.test == MCNEMAR:
            apart = sum(x != y for x, y in zip(self.first.values, self.second.values, strict=True))
            found = detectable_difference(len(self.first.values), apart / len(self.first.values), alpha=alpha)
            return math.inf if found is None else found
        same = self.difference.standard_error <= 1e-12 * max(map(abs, self.first.values + self.second.values))
        return None if same else detectable_mean_difference(self.difference.standard_error, alpha=alpha)


@dataclass(frozen=True)
class _Part:
    """The scores of one run in the order of their ids."""

    ids: list[str]
    groups: list[str]
    values: list[float]


class Samples:
    """Reads the scores of runs, and keeps what several comparisons need; for one table at a time.

    Args:
        scores: see `harness.statistics.example_scores.reader`.
    """

    def __init__(self, scores: Scores) -> None:
        self._scores = scores
        self._parts: dict[str, _Part] = {}
        self._known: dict[tuple[str, ...], Sample] = {}
        # Runs of one table usually have the same ids in the same order: sorted once, kept once.
        self._order: list[str] = []
        self._shared = _Part([], [], [])

    def of(self, runs: Sequence[Record]) -> Sample:
        """The scores of some runs of one method.

        Raises:
            Incomparable: one of them has none.
        """
        key = tuple(run.run_id for run in runs)
        if key not in self._known:
            self.read(runs)
            parts = [self._parts[id] for id in key]
            groups = [group for part in parts for group in part.groups]
            values = [value for part in parts for value in part.values]
            self._known[key] = Sample(tuple(runs), [part.ids for part in parts], groups, values)
        return self._known[key]

    def read(self, runs: Sequence[Record]) -> None:
        """Read the scores of some runs.

        Raises:
            Incomparable: one of them has none.
            StoreError: a file is missing, or not what its run wrote.
        """
        for run in runs:
            if run.run_id not in self._parts:
                self._parts[run.run_id] = self._read(run)

    def _read(self, run: Record) -> _Part:
        if not (found := self._scores(run)):
            raise Incomparable(f"run {run.run_id} has no score for each example; run the cell again with --fresh")
        if (order := list(found)) != self._order:
            self._order, self._shared = order, _Part(sorted(order), [], [])
        ordered = [found[id] for id in self._shared.ids]
        groups = [score.group for score in ordered]
        if groups != self._shared.groups:
            self._shared = _Part(self._shared.ids, groups, [])
        return _Part(self._shared.ids, self._shared.groups, [score.value for score in ordered])


def compare(a: Sequence[Record], b: Sequence[Record], samples: Samples) -> Comparison:
    """Compare two methods, one record per seed each, over the seeds that both have.

    Where they have none in common (say 0 against 1), the runs are compared in the order of their seeds. McNemar's test
    is exact for any number of questions; the bootstrap needs `FEWEST_GROUPS`.

    Raises:
        Incomparable: no scores by example, other examples, or too few pictures.
    """
    pairs = _pairs(a, b)
    first, second = samples.of([one for one, _ in pairs]), samples.of([other for _, other in pairs])
    _check_same(first, second)
    p_value, test = tested(first, second)
    return Comparison(p_value, test, first, second)


def tested(first: Sample, second: Sample) -> tuple[float, str]:
    """The p-value of equal scores on the same examples, and its test.

    Raises:
        Incomparable: too few pictures.
    """
    if first.answers is not None and second.answers is not None:
        return mcnemar(first.answers, second.answers), MCNEMAR
    if first.clusters < FEWEST_GROUPS:
        raise Incomparable(f"{first.clusters} pictures or questions are too few for a test ({FEWEST_GROUPS} or more)")
    return difference(first.resampled, second.resampled).p_value, BOOTSTRAP


def _pairs(a: Sequence[Record], b: Sequence[Record]) -> list[tuple[Record, Record]]:
    mine, other = ({record.cell.seed: record for record in records} for records in (a, b))
    if common := sorted(set(mine) & set(other)):
        return [(mine[seed], other[seed]) for seed in common]
    return list(zip([mine[seed] for seed in sorted(mine)], [other[seed] for seed in sorted(other)], strict=False))


def _check_same(a: Sample, b: Sample) -> None:
    for one, other, mine, its in zip(a.runs, b.runs, a.ids, b.ids, strict=True):
        if mine != its:
            odd = sorted(set(mine) ^ set(its))
            raise Incomparable(
                f"runs {one.run_id} and {other.run_id} differ in {len(odd)} examples (first: {', '.join(odd[:3])}); "
                "compare runs on the same data"
            )
    if a.groups != b.groups:
        raise Incomparable(f"runs {a.runs[0].run_id} and {b.runs[0].run_id} group their examples in other ways")
