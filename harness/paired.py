"""Two methods on the same examples: seeds pooled, exact McNemar for one seed of right and wrong, else the bootstrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.example_scores import FEWEST_GROUPS, Scores
from harness.record import Record
from harness.significance import PairedDifference, mcnemar, paired_bootstrap
from tasks import ExampleScore


class Incomparable(ValueError):
    """Runs that have no examples in common to compare on; says why in one line."""


@dataclass(frozen=True)
class Comparison:
    """A minus B in the unit of the primary score, the p-value and the test that gave it, and over which seeds."""

    difference: PairedDifference
    p_value: float
    test: str
    seeds: tuple[int, ...]


def compare(a: Sequence[Record], b: Sequence[Record], scores: Scores) -> Comparison:
    """Compare two methods, one record per seed each, over the seeds that both have.

    Where they have none in common (say 0 against 1), the runs are compared in the order of their seeds.

    Raises:
        Incomparable: no scores by example, other examples, or too few pictures.
    """
    pairs = _pairs(a, b)
    first: list[ExampleScore] = []
    second: list[ExampleScore] = []
    for one, other in pairs:
        left, right = _checked(one, scores), _checked(other, scores)
        _check_same(one, left, other, right)
        first += [left[id] for id in sorted(left)]
        second += [right[id] for id in sorted(left)]
    groups = [score.group for score in first]
    if (count := len(set(groups))) < FEWEST_GROUPS:
        raise Incomparable(f"{count} pictures or questions are too few for a test ({FEWEST_GROUPS} or more)")
    x, y = [score.value for score in first], [score.value for score in second]
    found = paired_bootstrap(x, y, groups)
    seeds = tuple(one.cell.seed for one, _ in pairs)
    if len(pairs) == 1 and set(x) | set(y) <= {0.0, 100.0}:
        return Comparison(found, mcnemar([v > 0 for v in x], [v > 0 for v in y]), "exact McNemar test", seeds)
    return Comparison(found, found.p_value, "paired bootstrap by picture", seeds)


def _pairs(a: Sequence[Record], b: Sequence[Record]) -> list[tuple[Record, Record]]:
    mine, other = ({record.cell.seed: record for record in records} for records in (a, b))
    if common := sorted(set(mine) & set(other)):
        return [(mine[seed], other[seed]) for seed in common]
    return list(zip([mine[seed] for seed in sorted(mine)], [other[seed] for seed in sorted(other)], strict=False))


def _checked(record: Record, scores: Scores) -> Mapping[str, ExampleScore]:
    if not (found := scores(record)):
        raise Incomparable(f"run {record.run_id} has no score for each example; run the cell again with --fresh")
    return found


def _check_same(
    one: Record, left: Mapping[str, ExampleScore], other: Record, right: Mapping[str, ExampleScore]
) -> None:
    if odd := sorted(set(left) ^ set(right)):
        raise Incomparable(
            f"runs {one.run_id} and {other.run_id} differ in {len(odd)} examples (first: {', '.join(odd[:3])}); "
            "compare runs on the same data"
        )
