"""Texts as values of annotated types, and the two forms of error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from harness import settings
from harness.settings import UsageError


@dataclass(frozen=True, kw_only=True)
class Options:
    count: int = 1
    rate: float = 0.1
    share: float | None = None
    on: bool = True
    scales: tuple[int, ...] = (1,)
    style: Literal["plain", "fancy"] = "plain"
    name: str = ""
    pairs: tuple[tuple[str, Any], ...] = ()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", "3", 3),
        ("count", 3, 3),
        ("rate", "2e-3", 0.002),
        ("rate", 2, 2.0),
        ("share", "none", None),
        ("share", "None", None),
        ("share", "0.5", 0.5),
        ("on", "false", False),
        ("on", "True", True),
        ("on", False, False),
        ("scales", "64,16", (64, 16)),
        ("scales", "64+16", (64, 16)),
        ("scales", "(64, 16,)", (64, 16)),
        ("scales", [64, 16], (64, 16)),
        ("scales", "64", (64,)),
        ("scales", "", ()),
        ("style", "fancy", "fancy"),
        ("name", "a=b, c", "a=b, c"),
    ],
)
def test_reads_values_by_annotation(name: str, value: Any, expected: Any) -> None:
    found = settings.read(Options, {name: value}, where="--set x.")[name]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", "3.5", "--set x.count: expected an integer, got '3.5'"),
        ("count", True, "--set x.count: expected an integer, got 'true'"),
        ("rate", "", "--set x.rate: expected a number, got ''"),
        ("rate", "nan", "--set x.rate: expected a finite number, got 'nan'"),
        ("share", "some", "--set x.share: expected a number, got 'some'"),
        ("on", "1", "--set x.on: expected true or false, got '1'"),
        ("scales", "64,x", "--set x.scales: expected an integer, got 'x'"),
        ("style", "loud", "--set x.style: expected plain or fancy, got 'loud'"),
        ("cuont", "3", "--set x.cuont: no such field; did you mean 'count'?"),
    ],
)
def test_refuses_other_values(name: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings.read(Options, {name: value}, where="--set x.")
    assert str(caught.value) == message


def test_refuses_types_that_have_no_text() -> None:
    with pytest.raises(UsageError, match="--set x.pairs: values of type .* cannot be given here"):
        settings.read(Options, {"pairs": "a"}, where="--set x.")


def test_overrides_by_scope() -> None:
    items = ["a.x=1", " a.y = two words ", "b.x=c=d"]
    assert settings.parse_overrides(items) == {"a": {"x": "1", "y": "two words"}, "b": {"x": "c=d"}}


@pytest.mark.parametrize("item", ["", "x", "x=1", "a.x", ".x=1", "a.=1", "a.b.c=1"])
def test_refuses_overrides_of_another_form(item: str) -> None:
    with pytest.raises(UsageError, match="write SCOPE.FIELD=VALUE"):
        settings.parse_overrides([item])


def test_refuses_a_field_set_twice() -> None:
    with pytest.raises(UsageError, match="a.x is set twice; keep one"):
        settings.parse_overrides(["a.x=1", "a.x=2"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rank", "did you mean 'lora_rank' or 'mwa_rank'?"),
        ("RANK ", "did you mean 'lora_rank' or 'mwa_rank'?"),
        ("Slots M", "did you mean 'slots'?"),
        ("scal", "did you mean 'scale'?"),
        ("slosts", "did you mean 'slots'?"),
        ("s", "known: lora_rank, mwa_rank, slots, scale, a, ab, abc, abcd"),
        ("", "known: lora_rank, mwa_rank, slots, scale, a, ab, abc, abcd"),
        ("xyz", "known: lora_rank, mwa_rank, slots, scale, a, ab, abc, abcd"),
    ],
)
def test_what_was_meant(name: str, said: str) -> None:
    known = ["lora_rank", "mwa_rank", "slots", "scale", "a", "ab", "abc", "abcd"]
    assert settings.suggest(name, known, {"slots": "Slots M"}) == said
