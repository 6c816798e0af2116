from __future__ import annotations

import pytest

from tasks.io.retrieval_metrics import Fold, score_ranks

NAMES = ["mean_recall", "tr_r1", "tr_r5", "tr_r10", "ir_r1", "ir_r5", "ir_r10", "tr_median_rank", "ir_median_rank"]


def spread(*ranks: int, size: int = 10) -> list[int]:
    """The given ranks, then 11 for all others."""
    return [*ranks, *[11] * (size - len(ranks))]


def test_a_hand_worked_case() -> None:
    scores = score_ranks([Fold(spread(1, 2, 5, 6, size=12), spread(1, 1, 1, 4, 10, size=20))])
    assert list(scores) == NAMES  # the primary one first
    values = {name: metric.value for name, metric in scores.items()}
    recalls = {
        "tr_r1": 100 / 12,
        "tr_r5": 300 / 12,
        "tr_r10": 400 / 12,
        "ir_r1": 15.0,
        "ir_r5": 20.0,
        "ir_r10": 25.0,
    }
    medians = {"tr_median_rank": 11.0, "ir_median_rank": 11.0}
    assert values == pytest.approx({"mean_recall": sum(recalls.values()) / 6, **recalls, **medians})
    assert {name: metric.n for name, metric in scores.items()} == {
        name: 20 if name.startswith("ir") else 12 for name in NAMES
    }
    assert (scores["tr_r5"].successes, scores["ir_r5"].successes) == (3, None)
    assert {metric.goal for name, metric in scores.items() if "median" in name} == {"min"}
    assert {metric.goal for name, metric in scores.items() if "median" not in name} == {"max"}


def test_median_between_two_ranks() -> None:
    scores = score_ranks([Fold([1, 2, 4, 9], [3] * 20)])
    assert (scores["tr_median_rank"].value, scores["tr_median_rank"].unit) == (3.0, "rank")


def test_folds_are_averaged_each_by_itself() -> None:
    one = Fold([1] * 20, spread(*[1] * 15, size=20))  # 100 % and 75 %, of 20 captions
    two = Fold(spread(1, 1, size=20), spread(1, size=50))  # 10 % and 2 %, of 50
    scores = score_ranks([one, two])
    assert scores["tr_r1"].value == pytest.approx(55.0)
    assert scores["ir_r1"].value == pytest.approx(38.5)  # not 16 of 70
    assert scores["ir_median_rank"].value == pytest.approx(6.0)
    assert (scores["tr_r1"].n, scores["ir_r1"].n, scores["mean_recall"].n) == (40, 70, 40)
    assert scores["tr_r1"].successes is None
    assert scores["mean_recall"].value == pytest.approx(3 * (55.0 + 38.5) / 6)


def test_fewer_candidates_than_the_cutoff() -> None:
    scores = score_ranks([Fold([1, 2, 3], [1] * 12)])
    assert scores["tr_r10"].value == 100
    assert (scores["ir_r1"].value, scores["ir_r5"].value, scores["ir_r10"].value) == (100, None, None)
    assert scores["ir_r5"].reason == "recall at 5 needs 5 images to choose from, there are 3"
    assert scores["mean_recall"].value is None
    assert scores["mean_recall"].reason == scores["ir_r5"].reason
    assert scores["ir_median_rank"].value == 1


def test_one_short_fold_is_enough_for_null() -> None:
    whole = Fold([1] * 10, [1] * 10)
    assert score_ranks([whole, Fold([1] * 9, [1] * 10)])["ir_r10"].value is None
    assert score_ranks([whole])["ir_r10"].value == 100


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ([], "there are no ranks to score"),
        ([Fold([], [])], "nothing to rank: 0 images and 0 captions"),
        ([Fold([1], [])], "nothing to rank: 1 images and 0 captions"),
        ([Fold([0], [1])], "image ranks must be from 1 to 1, got 0"),
        ([Fold([1, 2], [1, 3])], "caption ranks must be from 1 to 2, got 3"),
    ],
)
def test_refuses_impossible_ranks(folds: list[Fold], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_ranks(folds)
