"""Signs of life: none at first in a log, then a line now and then, all items in order."""

from __future__ import annotations

import pytest

from harness import progress


def test_a_log_gets_a_line_when_work_takes_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(progress.progress("abcdef", total=6, label="train", units="steps")) == list("abcdef")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "train: 1 of 6 steps, about 3.3 min left"
    assert len(lines) == 3


def test_a_log_of_short_work_stays_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.progress([1, 2], total=2, label="train", units="steps")) == [1, 2]
    assert capsys.readouterr().err == ""


def test_a_log_says_how_far_a_long_file_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.byte_progress(total=5_000_000_000, done=1_000_000, label="train.zip") as advance:
        for _ in range(3):
            advance(500_000)
    assert capsys.readouterr() == ("", "train.zip: 2.0 MB of 5.0 GB\n")


def test_bytes_as_people_say_them() -> None:
    said = [progress.size_text(count) for count in (0, 999, 1000, 36_745_453, 13_510_573_713)]
    assert said == ["0 bytes", "999 bytes", "1.0 kB", "36.7 MB", "13.5 GB"]
