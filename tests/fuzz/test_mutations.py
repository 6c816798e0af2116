"""The mutations do what they say, and the referee sees what it should see."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from harness.settings import UsageError
from tests.fuzz.mutations import ESCAPED, NAMES, WRONG, bad_json, bad_toml, cut, flipped, places, wrong_key, wrong_value
from tests.fuzz.refusals import Outcome, check_line, fuzz

GOOD = {"a": [1, {"b": "x"}], "c": None}
TOML = '[run]\nprecision = "fp32"\n\n[train]\nlr = 1e-3\n'
QUICK = settings(max_examples=50, derandomize=True, database=None, deadline=None)


def test_every_place_is_found() -> None:
    assert places(GOOD) == [(), ("a",), ("a", 0), ("a", 1), ("a", 1, "b"), ("c",)]


@QUICK
@given(flipped(b"0123456789", within=4))
def test_flips_stay_where_they_should(content: bytes) -> None:
    assert content != b"0123456789"
    assert content[4:] == b"456789"


@QUICK
@given(cut(b"0123456789"))
def test_a_cut_is_a_beginning(content: bytes) -> None:
    assert b"0123456789".startswith(content)
    assert len(content) < 10


@QUICK
@given(wrong_value(GOOD, fragments=["7"]))
def test_one_value_is_wrong(text: str) -> None:
    expected = [7, {"a": 7, "c": None}, {"a": [7, {"b": "x"}], "c": None}, {"a": [1, 7], "c": None}]
    assert json.loads(text) in [*expected, {"a": [1, {"b": 7}], "c": None}, {"a": [1, {"b": "x"}], "c": 7}]


@QUICK
@given(wrong_key(GOOD))
def test_one_key_is_wrong(text: str) -> None:
    assert json.loads(text) != GOOD


def test_hostile_values_come_up() -> None:
    for fragment in ("NaN", "null", json.dumps(f"/tmp/{ESCAPED}")):
        assert fragment.encode() in find(bad_json(GOOD), lambda content, wanted=fragment: wanted.encode() in content)
    assert set(map(json.dumps, NAMES)) < set(WRONG)


def test_bad_toml_is_mostly_no_recipe_any_more() -> None:
    good, same = tomllib.loads(TOML), []

    @QUICK
    @given(bad_toml(TOML))
    def each(content: bytes) -> None:
        try:
            same.append(tomllib.loads(content.decode()) == good)
        except (ValueError, RecursionError):
            same.append(False)

    each()
    assert sum(same) < len(same) / 4


def test_the_referee_counts(folder: Path) -> None:
    def read(number: int) -> None:
        if number > 4:
            raise UsageError(f"{folder}: no such number")

    found = fuzz(read, st.integers(0, 19), good=0, folder=folder, count=19)
    assert (found.refused, found.read) == (15, 4)
    assert found.mostly_refused


def test_the_referee_sees_a_reader_that_takes_anything(folder: Path) -> None:
    found = fuzz(lambda number: None, st.integers(), good=0, folder=folder, count=20)
    assert (found.refused, found.read) == (0, 20)
    assert not found.mostly_refused
    assert not Outcome(refused=10, read=10).mostly_refused
    assert Outcome(refused=11, read=10).mostly_refused


def test_the_referee_sees_a_reader_that_takes_nothing(folder: Path) -> None:
    def read(number: int) -> None:
        raise UsageError(f"{folder}: no such number")

    with pytest.raises(UsageError, match="no such number"):
        fuzz(read, st.integers(), good=0, folder=folder, count=20)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("x"), "x"),
        (UsageError("no file is named here"), "is not named"),
        (UsageError("short"), "5 characters"),
    ],
)
def test_the_referee_lets_nothing_else_pass(error: Exception, said: str, folder: Path) -> None:
    def read(number: int) -> None:
        if number:
            raise error

    with pytest.raises((KeyError, AssertionError), match=said):
        fuzz(read, st.integers(), good=0, folder=folder, count=5)


def test_the_referee_sees_files_elsewhere(folder: Path) -> None:
    def read(number: int) -> None:
        Path("elsewhere").touch()
        if number:
            raise UsageError(f"{folder}: refused")

    with pytest.raises(AssertionError, match="outside of the folder"):
        fuzz(read, st.integers(), good=0, folder=folder, count=5)


def test_the_referee_sees_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.refusals.MOST_BYTES", 10**8)

    def read(number: int) -> None:
        if number:
            bytearray(b"x" * 110_000_000)
            raise UsageError(f"{folder}: refused")

    with pytest.raises(AssertionError, match="memory rose by"):
        fuzz(read, st.integers(1, 9), good=0, folder=folder, count=1)


def test_running_out_of_memory_is_no_clear_error() -> None:
    try:
        raise UsageError("a file: refused") from MemoryError()
    except UsageError as error:
        with pytest.raises(AssertionError, match="only as memory ran out"):
            check_line(error)
