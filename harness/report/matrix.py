"""Which methods of a table differ: tests of `harness.statistics.paired` between every two rows, with Holm's correction.

The pairs of methods are one family, so that they are tested as in `harness.statistics.standing`; those with a baseline
another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from harness.record import Record
from harness.report.colours import Look
from harness.report.evidence import NO_SCORES, excuse
from harness.report.wording import p_value
from harness.statistics.example_scores import Scores
from harness.statistics.paired import Comparison, Incomparable, Samples, compare
from harness.statistics.significance import ALPHA, holm
from harness.statistics.standing import MOST_ROWS, too_many
from harness.tables.columns import visible
from harness.tables.rows import Row, Table, score_of

_SCOPE = (
    "They are about these trained models on more examples; how much another seed changes a score, "
    "its interval over seeds tells."
)
_Pair = tuple[int, int]


@dataclass(frozen=True)
class Entry:
    """Row method minus column method."""

    text: str
    p: str
    verdict: Literal["better", "worse", "open"]


@dataclass(frozen=True)
class Matrix:
    """`entries[a][b]` compares row a with column b; None on the diagonal."""

    entries: list[list[Entry | None]]
    note: str


@dataclass(frozen=True)
class Verdicts:
    """The tests between the labelled rows, or None; `left_out` says what could not be tested and why."""

    matrix: Matrix | None
    labels: list[tuple[str, Look]]
    left_out: str


def verdicts(table: Table, by_run: Mapping[str, Record], scores: Scores, look: Callable[[Row], Look]) -> Verdicts:
    """Test the rows of a table, as far as they have scores by example."""
    rows, missing = list[Row](), list[tuple[str, str]]()
    if len(table.rows) > MOST_ROWS:
        return Verdicts(None, [], too_many(len(table.rows)))
    runs = {row.method: _runs(table, row, by_run) for row in table.rows}
    for row in table.rows:
        if reason := _no_test(table, row, runs[row.method], scores):
            missing.append((visible(row.method), visible(reason)))
        else:
            rows.append(row)
    labels, left_out = [(visible(row.method), look(row)) for row in rows], excuse(missing)
    if not rows:
        return Verdicts(None, labels, left_out)
    goal = next(iter(table.metrics.values())).goal
    try:
        found = matrix(rows, [runs[row.method] for row in rows], scores, goal=goal)
    except Incomparable as error:
        return Verdicts(None, labels, "; ".join(filter(None, [visible(error), left_out])))
    return Verdicts(found, labels, left_out)


def matrix(
    rows: Sequence[Row], runs: Sequence[Sequence[Record]], scores: Scores, *, goal: Literal["max", "min"]
) -> Matrix:
    """The matrix of the rows in the order given.

    Raises:
        Incomparable: fewer than two rows or too many, or the reasons of `harness.statistics.paired.compare`.
    """
    if not 2 <= len(rows) <= MOST_ROWS:
        raise Incomparable("there is nothing to compare with" if len(rows) < 2 else too_many(len(rows)))
    samples = Samples(scores)
    tested = {(a, b): compare(runs[a], runs[b], samples) for a, b in combinations(range(len(rows)), 2)}
    baselines = {index for index, row in enumerate(rows) if row.baseline}
    families = [
        [pair for pair in tested if baselines.isdisjoint(pair)],
        [pair for pair in tested if not baselines.isdisjoint(pair)],
    ]
    entries: list[list[Entry | None]] = [[None] * len(rows) for _ in rows]
    for family in filter(None, families):
        for (a, b), p in zip(family, holm([tested[pair].p_value for pair in family]), strict=True):
            difference = tested[a, b].by
            entries[a][b] = _entry(difference, p, goal)
            entries[b][a] = _entry(-difference, p, goal)
    return Matrix(entries, _note(tested, families))


def _no_test(table: Table, row: Row, runs: Sequence[Record], scores: Scores) -> str:
    """Why a row is not tested; empty where it can be."""
    primary = next(iter(table.metrics), "")
    if row.values.get(primary) is None:
        return row.reasons.get(primary) or "no score"
    try:
        return "" if all(scores(run) for run in runs) else NO_SCORES
    except Incomparable as error:
        return str(error)


def _runs(table: Table, row: Row, by_run: Mapping[str, Record]) -> list[Record]:
    """The runs of a row that have the first score."""
    primary = next(iter(table.metrics), "")
    return [run for run in map(by_run.__getitem__, row.runs) if score_of(run, primary) is not None]


def _note(tested: Mapping[_Pair, Comparison], families: Sequence[Sequence[_Pair]]) -> str:
    tests = ", ".join(sorted({comparison.test for comparison in tested.values()}))
    of = ("between methods", "with a baseline")
    counts = [f"the {len(pairs)} pairs {name}" for pairs, name in zip(families, of, strict=True) if pairs]
    corrected = ", and on their own over ".join(counts).replace("the 1 pairs", "the one pair")
    return f"{tests[0].upper()}{tests[1:]}; p-values are Holm-corrected over {corrected}. {_SCOPE}"


def _entry(difference: float, p: float, goal: str) -> Entry:
    better = (difference > 0) == (goal == "max")
    verdict: Literal["better", "worse", "open"] = "open" if p > ALPHA else "better" if better else "worse"
    shown = f"{difference:+.2f}"
    # A true minus sign, as wide as the plus sign; what rounds to nothing has none.
    text = "0.00" if float(shown) == 0 else shown.replace("-", "−")
    return Entry(text, p_value(p), verdict)
