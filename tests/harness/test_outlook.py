"""The line after each cell of a matrix: what is counted, and from which cells the time left is estimated."""

from __future__ import annotations

import pytest

from harness.outlook import Ended, Kind, Outlook, seconds_left, summary


def kind(task: str = "scienceqa", method: str = "memvp", work: str = "train") -> Kind:
    return Kind(task, method, work)  # type: ignore[arg-type]


def ok(seconds: float | None, **of: str) -> Ended:
    return Ended(kind(**of), "ok", seconds)


def test_the_line_counts_and_estimates() -> None:
    ended = [ok(60), ok(60), ok(60), Ended(kind(), "failed", 2), Ended(kind(), "skipped", 0)]
    said = summary(ended, [kind()] * 18, total=24, running=1)
    assert said == "3 of 24 done, 1 failed, 1 skipped, 1 running; about 18 min left"


def test_what_runs_side_by_side_shares_the_time_left() -> None:
    assert summary([ok(60)], [kind()] * 30, total=31, at_once=10) == "1 of 31 done; about 3 min left"


def test_nothing_is_said_of_what_is_unknown() -> None:
    assert summary([Ended(kind(), "failed", 2)], [kind()], total=2) == "0 of 2 done, 1 failed"
    assert summary([ok(None)], [kind()], total=2) == "1 of 2 done"
    assert summary([ok(60)], [kind(), kind(work="tune")], total=3) == "1 of 3 done"


def test_one_cell_after_the_other_is_running_until_none_is_left() -> None:
    outlook = Outlook([kind()] * 4, [False, False, True, False])
    said = []
    for status in ("ok", "failed", "ok", "ok"):
        outlook.end(status, None)
        said.append(str(outlook))
    assert said == ["1 of 4 done, 1 running", "1 of 4 done, 1 failed, 1 running", "2 of 4 done, 1 failed, 1 running",
                    "3 of 4 done, 1 failed"]  # fmt: skip


def test_the_last_line_has_no_time_left() -> None:
    assert summary([ok(60), ok(60)], [], total=2) == "2 of 2 done"


def test_cells_of_the_same_task_and_method_tell_most() -> None:
    ended = [ok(10), ok(20), ok(100, method="full"), ok(1000, task="retrieval")]
    assert seconds_left(ended, [kind()]) == 15
    assert seconds_left(ended, [kind(method="full")]) == 100
    assert seconds_left(ended, [kind(method="lora")]) == pytest.approx(130 / 3)
    assert seconds_left(ended, [kind(task="coco_caption", method="lora")]) == pytest.approx(1130 / 4)
    assert seconds_left(ended, [kind(), kind(method="full"), kind(task="retrieval")]) == 15 + 100 + 1000


def test_a_baseline_that_is_only_evaluated_says_nothing_about_training() -> None:
    ended = [ok(5, method="frozen", work="evaluate")]
    assert seconds_left(ended, [kind()]) is None
    assert seconds_left([*ended, ok(50)], [kind(), kind(method="blind", work="evaluate")]) == 55


def test_neither_failures_nor_kept_cells_make_an_estimate_short() -> None:
    ended = [ok(60), ok(None), Ended(kind(), "failed", 1), Ended(kind(), "skipped", 0)]
    assert seconds_left(ended, [kind()]) == 60


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (90000, "25.0 h")],
)
def test_durations_are_round(seconds: float, said: str) -> None:
    assert summary([ok(seconds)], [kind()], total=2).endswith(f"; about {said} left")
