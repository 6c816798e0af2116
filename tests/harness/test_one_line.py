"""Errors as lines of a terminal."""

from __future__ import annotations

from harness.one_line import LONGEST, one_line, printable


def test_what_cannot_be_seen_is_escaped() -> None:
    assert printable("é \x1b[2J\u202e\udcff\n") == r"é \x1b[2J\u202e\udcff\n"


def test_lines_become_one() -> None:
    assert one_line(ValueError("a file: wrong\nfix it")) == "a file: wrong fix it"


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    line = one_line(ValueError("a file: " + "long " * 10_000 + "; fix it"))
    assert line.startswith("a file: long")
    assert line.endswith("; fix it")
    assert LONGEST <= len(line) < LONGEST + 10
