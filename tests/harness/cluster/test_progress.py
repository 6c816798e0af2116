"""The lines on a matrix whose cells end in any order."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli, plan
from harness.cluster import progress
from harness.cluster.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def planned(tmp_path: Path, seeds: str) -> plan.Plan:
    where = ["--device", "cpu", "--results", str(tmp_path)]
    args = cli.parser().parse_args(["run", "--methods", "lora", "--task", "scienceqa", "--seeds", seeds, *where])
    args.argv = ()
    return plan.build(args)


def test_what_is_left_is_shared_by_those_that_run(tmp_path: Path, clock: list[float]) -> None:
    said: list[str] = []
    course = Progress(planned(tmp_path, "0,1,2,3,4,5"), said.append)
    course.end(4, "ok")  # it was recorded already
    course.begin(1)
    course.begin(3)
    clock[0] += 30
    course.begin(3)
    course.end(3, "ok")
    assert said == ["1 of 6 done", "2 of 6 done, 1 running; about 60 s left"]
    assert course.running == 1


def test_lines_keep_their_distance_but_the_last_is_said(tmp_path: Path, clock: list[float]) -> None:
    said: list[str] = []
    course = Progress(planned(tmp_path, "0,1,2"), said.append)
    for index, status in ((2, "ok"), (0, "failed"), (1, "ok")):
        course.begin(index)
        clock[0] += 1
        course.end(index, status)
    assert said == ["1 of 3 done; about 2 s left", "2 of 3 done, 1 failed"]


def test_a_cell_that_was_lost_begins_anew(tmp_path: Path, clock: list[float]) -> None:
    said: list[str] = []
    course = Progress(planned(tmp_path, "0,1"), said.append)
    course.begin(0)
    clock[0] += 1000
    course.lost(0)
    assert course.running == 0
    course.begin(0)
    clock[0] += 10
    course.end(0, "ok")
    assert said == ["1 of 2 done; about 10 s left"]
