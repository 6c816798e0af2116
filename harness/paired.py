"""Two methods on the same examples: seeds pooled, exact McNemar for one seed of right and wrong, else the bootstrap."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.example_scores import FEWEST_GROUPS, Scores
from harness.record import Record
from harness.significance import PairedDifference, Resampled, difference, mcnemar, resampled
from tasks import ExampleScore


class Incomparable(ValueError):
    """Runs that have no examples in common to compare on; says why in one line."""


@dataclass(frozen=True)
class Comparison:
    """A minus B in the unit of the primary score, the p-value and its test, and the runs that were paired."""

    difference: PairedDifference
    p_value: float
    test: str
    a: tuple[Record, ...]
    b: tuple[Record, ...]


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


class Samples:
    """Reads the scores of runs, and keeps what several comparisons need.

    Args:
        scores: see `harness.example_scores.reader`.
    """

    def __init__(self, scores: Scores) -> None:
        self._scores = scores
        self._known: dict[tuple[str, ...], Sample] = {}

    def of(self, runs: Sequence[Record]) -> Sample:
        """The scores of some runs of one method.

        Raises:
            Incomparable: one of them has none.
        """
        key = tuple(run.run_id for run in runs)
        if key not in self._known:
            found = [self._checked(run) for run in runs]
            parts = [one[id] for one in found for id in sorted(one)]
            groups, values = [part.group for part in parts], [part.value for part in parts]
            self._known[key] = Sample(tuple(runs), [sorted(one) for one in found], groups, values)
        return self._known[key]

    def _checked(self, run: Record) -> Mapping[str, ExampleScore]:
        if not (found := self._scores(run)):
            raise Incomparable(f"run {run.run_id} has no score for each example; run the cell again with --fresh")
        return found


def compare(a: Sequence[Record], b: Sequence[Record], samples: Samples) -> Comparison:
    """Compare two methods, one record per seed each, over the seeds that both have.

    Where they have none in common (say 0 against 1), the runs are compared in the order of their seeds.

    Raises:
        Incomparable: no scores by example, other examples, or too few pictures.
    """
    pairs = _pairs(a, b)
    first, second = samples.of([one for one, _ in pairs]), samples.of([other for _, other in pairs])
    _check_same(first, second)
    if (count := len(set(first.groups))) < FEWEST_GROUPS:
        raise Incomparable(f"{count} pictures or questions are too few for a test ({FEWEST_GROUPS} or more)")
    found = difference(first.resampled, second.resampled)
    if len(pairs) == 1 and {*first.values, *second.values} <= {0.0, 100.0}:
        answers = ([value > 0 for value in sample.values] for sample in (first, second))
        return Comparison(found, mcnemar(*answers), "exact McNemar test", first.runs, second.runs)
    return Comparison(found, found.p_value, "paired bootstrap by picture", first.runs, second.runs)


def _pairs(a: Sequence[Record], b: Sequence[Record]) -> list[tuple[Record, Record]]:
    mine, other = ({record.cell.seed: record for record in records} for records in (a, b))
    if common := sorted(set(mine) & set(other)):
        return [(mine[seed], other[seed]) for seed in common]
    return list(zip([mine[seed] for seed in sorted(mine)], [other[seed] for seed in sorted(other)], strict=False))


def _check_same(a: Sample, b: Sample) -> None:
    for one, other, mine, its in zip(a.runs, b.runs, a.ids, b.ids, strict=True):
        if odd := sorted(set(mine) ^ set(its)):
            raise Incomparable(
                f"runs {one.run_id} and {other.run_id} differ in {len(odd)} examples (first: {', '.join(odd[:3])}); "
                "compare runs on the same data"
            )
    if a.groups != b.groups:
        raise Incomparable(f"runs {a.runs[0].run_id} and {b.runs[0].run_id} group their examples in other ways")
