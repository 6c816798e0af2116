"""Two methods on the same examples, and which methods of a table cannot be told apart from its best."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from scipy.stats import binomtest

from harness.comparison import report
from harness.example_scores import Scores
from harness.leaderboard import markdown
from harness.paired import Incomparable, Samples, compare
from harness.record import Record
from harness.standing import Standing, standing
from tasks import ExampleScore
from tests.harness.test_leaderboard import column, make

QUESTIONS = 400


def answers(right: float, *, seed: int = 0, count: int = QUESTIONS) -> dict[str, ExampleScore]:
    """So many questions, of which a share is answered right."""
    chosen = random.Random(seed).sample(range(count), round(right * count))
    return {str(n): ExampleScore(str(n), 100.0 * (n in chosen)) for n in range(count)}


def reading(*pairs: tuple[Record, dict[str, ExampleScore]]) -> Scores:
    known = {record.run_id: scores for record, scores in pairs}
    return lambda record: known.get(record.run_id, {})


def test_one_seed_of_answers_is_tested_by_mcnemar() -> None:
    a, b = make("a"), make("b")
    left = {str(n): ExampleScore(str(n), 100.0 * (n >= 12)) for n in range(100)}
    right = {str(n): ExampleScore(str(n), 100.0 * (n >= 20 or n < 3)) for n in range(100)}
    found = compare([a], [b], Samples(reading((a, left), (b, right))))
    # a alone is right on 12 to 19, b alone on 0 to 2.
    assert found.p_value == pytest.approx(binomtest(8, 11).pvalue, abs=1e-12)
    assert (found.test, found.a, found.b) == ("exact McNemar test", (a,), (b,))
    assert found.difference.difference == pytest.approx(5.0)


def test_seeds_are_pooled_over_those_that_both_have() -> None:
    runs = {(name, seed): make(name, seed=seed) for name in "ab" for seed in range(3)}
    pairs = [(record, answers(0.8 if name == "a" else 0.5, seed=seed)) for (name, seed), record in runs.items()]
    a, b = [runs["a", seed] for seed in (0, 1, 2)], [runs["b", seed] for seed in (2, 1)]
    found = compare(a, b, Samples(reading(*pairs)))
    assert found.test == "paired bootstrap by picture"
    assert [run.cell.seed for run in found.a] == [run.cell.seed for run in found.b] == [1, 2]
    assert (found.difference.n, found.difference.clusters) == (2 * QUESTIONS, QUESTIONS)
    assert found.difference.difference == pytest.approx(30.0)
    assert found.p_value < 0.001


def test_scores_that_are_no_answers_are_bootstrapped() -> None:
    a, b = make("a"), make("b")
    left = {str(n): ExampleScore(str(n // 5), float(n % 7)) for n in range(300)}
    found = compare([a], [b], Samples(reading((a, left), (b, left))))
    assert (found.p_value, found.test, found.difference.clusters) == (1.0, "paired bootstrap by picture", 60)


def test_what_flipped_is_counted_over_all_seeds() -> None:
    runs = {(name, seed): make(name, seed=seed) for name in "ab" for seed in (0, 1)}
    right = {("a", 0): 0, ("b", 0): 2, ("a", 1): 5, ("b", 1): 0}  # so many of the first 60 questions
    pairs = [
        (runs[key], {f"{n:02}": ExampleScore(str(n), 100.0 * (n < count)) for n in range(60)})
        for key, count in right.items()
    ]
    text = report("a", "b", list(runs.values()), reading(*pairs))
    assert "- a does better on 5 of 120 (first: 00 in seed 1, 01 in seed 1, " in text
    assert "- b does better on 2 of 120 (first: 00 in seed 0, 01 in seed 0)" in text


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (answers(0.5), {}, "has no score for each example"),
        (answers(0.5), answers(0.5, count=QUESTIONS + 2), r"differ in 2 examples \(first: 400, 401\)"),
        (answers(0.5, count=49), answers(0.5, count=49), "49 pictures or questions are too few"),
    ],
)
def test_what_cannot_be_compared_is_said(
    left: dict[str, ExampleScore], right: dict[str, ExampleScore], message: str
) -> None:
    a, b = make("a"), make("b")
    with pytest.raises(Incomparable, match=message):
        compare([a], [b], Samples(reading((a, left), (b, right))))


def table(*shares: float) -> tuple[Sequence[Record], Scores]:
    """Methods m0, m1, ... that answer so many questions right, and a baseline that answers all."""
    records = [make(f"m{number}", 100 * share) for number, share in enumerate(shares)] + [make("full", 100.0)]
    scores = [answers(share, seed=number) for number, share in enumerate((*shares, 1.0))]
    return records, reading(*zip(records, scores, strict=True))


def test_methods_that_cannot_be_told_apart_share_the_mark() -> None:
    records, scores = table(0.80, 0.79, 0.50)
    text = markdown(records, scores=scores)
    shown = column(text, "Acc. %")
    assert [name for name in shown if shown[name].startswith("**")] == ["m0", "m1"]
    assert "cannot be told apart from it on these examples (exact McNemar test, Holm over all pairs, 5 %)" in text
    assert "would have shown with 80 % power" in text


def test_a_clear_best_stands_alone() -> None:
    records, scores = table(0.9, 0.5, 0.49)
    found = standing(
        {record.cell.method: [record] for record in records[:3]},
        {"m0": 90.0, "m1": 50.0, "m2": 49.0},
        goal="max",
        scores=scores,
    )
    assert isinstance(found, Standing)
    assert found.best == {"m0"}
    assert set(found.p_values) == {("m0", "m1"), ("m0", "m2"), ("m1", "m2")}
    assert found.p_values["m1", "m2"] > 0.05


def test_without_scores_the_table_says_that_nothing_was_tested() -> None:
    records, _ = table(0.8, 0.79)
    text = markdown(records)
    assert column(text, "Acc. %")["m0"].startswith("**80.00**")
    assert "differences were not tested: run" in text


def test_a_lone_method_needs_no_test() -> None:
    records, scores = table(0.8)
    assert "Bold" not in markdown(records, scores=scores)
