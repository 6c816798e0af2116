"""Two methods on the same examples, and which methods of a table cannot be told apart from its best."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence

import pytest
from scipy.stats import binomtest

from harness.record import MetricValue, Record
from harness.statistics.detectable import detectable_difference
from harness.statistics.example_scores import Scores
from harness.statistics.paired import Incomparable, Samples, compare
from harness.statistics.standing import Standing, standing
from harness.tables.comparison import report
from harness.tables.leaderboard import markdown
from tasks import ExampleScore
from tests.markdown_tables import column
from tests.records import make

QUESTIONS = 400


def answers(right: float, *, seed: int = 0, count: int = QUESTIONS) -> dict[str, ExampleScore]:
    """So many questions, of which a share is answered right."""
    chosen = random.Random(seed).sample(range(count), round(right * count))
    return {str(n): ExampleScore(str(n), 100.0 * (n in chosen)) for n in range(count)}


def points(count: int) -> dict[str, ExampleScore]:
    """So many captions, each about a picture of its own."""
    return {str(n): ExampleScore(str(n), float(n % 7)) for n in range(count)}


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
    assert found.test == "paired bootstrap by picture or question"
    assert [run.cell.seed for run in found.a] == [run.cell.seed for run in found.b] == [1, 2]
    assert (found.difference.n, found.difference.clusters) == (2 * QUESTIONS, QUESTIONS)
    assert found.difference.difference == pytest.approx(30.0)
    assert found.p_value < 0.001


def test_scores_that_are_no_answers_are_bootstrapped() -> None:
    a, b = make("a"), make("b")
    left = {str(n): ExampleScore(str(n // 5), float(n % 7)) for n in range(300)}
    found = compare([a], [b], Samples(reading((a, left), (b, left))))
    assert (found.p_value, found.test, found.difference.clusters) == (
        1.0,
        "paired bootstrap by picture or question",
        60,
    )


def test_where_less_is_better_the_smaller_does_better() -> None:
    score = MetricValue(value=1.0, unit="points", goal="min", n=60)
    a, b = (make(name, metrics={"errors": score}) for name in "ab")
    left = {f"{n:02}": ExampleScore(str(n), float(n % 7)) for n in range(60)}
    right = {id: ExampleScore(part.group, part.value + (id < "03")) for id, part in left.items()}
    text = report("a", "b", [a, b], reading((a, left), (b, right)))
    assert "- a does better on 3 of 60 (first: 00, 01, 02)" in text
    assert "- b does better on 0 of 60" in text


def test_the_seeds_of_both_are_named_where_they_differ() -> None:
    a, b = make("a", seed=0), make("b", seed=7)
    scores = reading((a, answers(0.5)), (b, answers(0.4)))
    assert "(exact McNemar test, seeds 0 against 7: 400 pairs" in report("a", "b", [a, b], scores)
    more = [make("a", seed=1), make("b", seed=8)]
    scores = reading((a, answers(0.5)), (b, answers(0.4)), (more[0], answers(0.9)), (more[1], answers(0.1)))
    text = report("a", "b", [a, b, *more], scores)
    assert "seeds 0, 1 against 7, 8: 800 pairs" in text
    assert " in seed 0 against 7" in text


def test_tasks_that_cannot_be_tested_keep_others_from_no_comparison() -> None:
    records = [make(name, task=task) for name in "ab" for task in ("one", "two")]
    scores = reading(*((record, answers(0.5)) for record in records if record.cell.task == "two"))
    text = report("a", "b", records, scores)
    assert "## one · mini: a against b\n\nNot compared: run 2026-" in text
    assert "## two · mini: a against b\n\naccuracy: difference +0.00" in text
    with pytest.raises(Incomparable, match="has no score for each example"):
        report("a", "b", [record for record in records if record.cell.task == "one"], scores)


def test_a_seed_without_a_score_takes_no_part() -> None:
    records = [make("a"), make("a", None, seed=1), make("b"), make("b", seed=1)]
    scores = reading(*((record, answers(0.5)) for record in records if record.metrics["accuracy"].value is not None))
    assert "(exact McNemar test, seed 0: 400 pairs" in report("a", "b", records, scores)
    assert "differences were not tested" not in markdown(records, scores=scores)


def test_the_beginning_of_another_id_can_be_named() -> None:
    a, b = make("a"), make("b")
    longer = a.model_copy(update={"run_id": f"{a.run_id}-more"})
    scores = reading((a, answers(0.5)), (b, answers(0.4)), (longer, answers(0.4)))
    assert f"{a.run_id} against {b.run_id}" in report(a.run_id, b.run_id, [a, b, longer], scores)


def test_hostile_names_stay_on_their_lines() -> None:
    hostile = "x\x1b[31m\ny"
    a, b = make("a", method__path=hostile), make("b", **{"method__\x1b[2J": 1})
    left = {f"{hostile}{n}": ExampleScore(str(n), 100.0 * (n < 30)) for n in range(60)}
    right = {id: ExampleScore(part.group, 100.0 - part.value) for id, part in left.items()}
    text = report("a", "b", [a, b], reading((a, left), (b, right)))
    assert all(line.isprintable() for line in text.split("\n"))
    assert "- method.path: x [31m y against no such option" in text


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
        (points(49), points(49), "49 pictures or questions are too few"),
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
    assert "Minimum detectable difference: about " in text
    assert "percentage points (80 % power)" in text


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


def test_mcnemar_is_exact_for_few_questions_of_which_no_interval_is_given() -> None:
    a, b = make("a"), make("b")
    left, right = ({str(n): ExampleScore(str(n), 100.0 * (n < count)) for n in range(10)} for count in (9, 1))
    found = compare([a], [b], Samples(reading((a, left), (b, right))))
    assert found.p_value == pytest.approx(binomtest(8, 8).pvalue, abs=1e-12)
    assert (found.by, found.interval) == (pytest.approx(80.0), None)
    text = report("a", "b", [a, b], reading((a, left), (b, right)))
    assert "accuracy: difference +80.00 percentage points, p = 0.008 (exact McNemar test" in text


def test_questions_about_the_same_picture_are_not_taken_for_independent() -> None:
    a, b = make("a"), make("b")
    left = {str(n): ExampleScore(str(n // 2), 100.0 * (n % 4 < 2)) for n in range(120)}
    found = compare([a], [b], Samples(reading((a, left), (b, left))))
    assert (found.test, found.first.clusters) == ("paired bootstrap by picture or question", 60)


def ranked(runs: dict[str, list[Record]], scores: Scores, **means: float) -> Standing:
    found = standing(runs, means, goal="max", scores=scores)
    assert isinstance(found, Standing)
    return found


def test_a_method_without_scores_keeps_the_others_from_no_test() -> None:
    records, scores = table(0.9, 0.5, 0.89)
    old = make("old", 95.0)
    text = markdown([*records, old], scores=scores)
    shown = column(text, "Acc. %")
    assert [name for name in shown if shown[name].startswith("**")] == ["m0", "m2"]
    assert f"old was not tested, and so has no mark: run {old.run_id} has no score for each example" in text
    assert "Bold in Acc.: the best tested method, and those" in text
    assert "differences were not tested" not in text


def test_a_method_that_is_better_on_the_common_seeds_keeps_the_mark() -> None:
    # b has an easy seed that a has not; on the one that both have, a is better.
    a, b, easy = make("a", 60.0), make("b", 40.0), make("b", 99.0, seed=1)
    scores = reading((a, answers(0.6)), (b, answers(0.4)), (easy, answers(0.99, seed=1)))
    found = ranked({"a": [a], "b": [b, easy]}, scores, a=60.0, b=69.5)
    assert found.p_values["a", "b"] < 0.05
    assert found.best == {"a", "b"}


@pytest.mark.parametrize("methods", [2, 5])
def test_the_detectable_difference_is_that_of_the_corrected_test(methods: int) -> None:
    shares = [0.8] * methods
    records, scores = table(*shares)
    runs = {record.cell.method: [record] for record in records[:methods]}
    found = ranked(runs, scores, **dict.fromkeys(runs, 80.0))
    known = {name: [part.value for part in scores(run).values()] for name, [run] in runs.items()}
    pairs = methods * (methods - 1) // 2
    apart = [sum(x != y for x, y in zip(known["m0"], known[name], strict=True)) for name in list(runs)[1:]]
    sizes = [detectable_difference(QUESTIONS, count / QUESTIONS, alpha=0.05 / pairs) for count in apart]
    assert found.detectable == pytest.approx(statistics.median(size for size in sizes if size is not None))


def test_equal_answers_are_no_proof_that_nothing_would_go_unnoticed() -> None:
    a, b = make("a"), make("b")
    same = ranked({"a": [a], "b": [b]}, reading((a, answers(0.5)), (b, answers(0.5))), a=50.0, b=50.0)
    assert same.detectable == pytest.approx(detectable_difference(QUESTIONS, 0.0))
    spoken = ranked({"a": [a], "b": [b]}, reading((a, points(60)), (b, points(60))), a=3.0, b=3.0)
    assert spoken.detectable is None
    few = ranked({"a": [a], "b": [b]}, reading((a, answers(0.5, count=4)), (b, answers(0.5, count=4))), a=50.0, b=50.0)
    assert few.detectable == math.inf


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (points(60), "Minimum detectable difference: unknown, as methods score the same on every example."),
        (answers(0.5, count=4), "Minimum detectable difference: none; on so few examples no difference would be found"),
    ],
)
def test_what_no_number_says_is_said_in_words(scores: dict[str, ExampleScore], said: str) -> None:
    assert said in markdown([make("a"), make("b")], scores=lambda record: scores)


def test_too_many_rows_for_every_pair_are_not_tested_and_their_files_not_read() -> None:
    def refuse(record: Record) -> dict[str, ExampleScore]:
        raise AssertionError("scores were read")

    text = markdown([make("a", 50.0 + n, method__slots=n) for n in range(17)], scores=refuse)
    assert "differences were not tested: a table of 17 rows has too many pairs." in text


def test_without_scores_the_table_says_that_nothing_was_tested() -> None:
    records, _ = table(0.8, 0.79)
    text = markdown(records)
    assert column(text, "Acc. %")["m0"].startswith("**80.00**")
    assert "differences were not tested: run" in text


def test_a_lone_method_needs_no_test() -> None:
    records, scores = table(0.8)
    assert "Bold" not in markdown(records, scores=scores)
