"""Values out of files: how deep they are, and what they hold."""

from __future__ import annotations

from typing import Any

import pytest

from harness.nesting import DEEPEST, check_depth, part


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def test_what_is_nested_too_deep_is_refused() -> None:
    for depth in (0, 1, DEEPEST):
        check_depth(nested(depth))
    for depth in (DEEPEST + 2, 50_000):
        with pytest.raises(ValueError, match="within more than 100 others"):
            check_depth(nested(depth))


def test_an_object_or_nothing() -> None:
    assert part({"a": {"b": 1}}, "a") == {"b": 1}
    assert part({"a": [1]}, "a") == part({"a": None}, "a") == part({}, "a") == {}
