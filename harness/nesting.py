"""JSON and TOML of any shape: how deep they may be nested, and objects in them where something else may stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEEPEST = 100
"""Lists and objects within each other: functions that call themselves must come to an end."""
TOO_DEEP = f"lists or objects within more than {DEEPEST} others"


def part(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object that goes by a name, an empty one where there is none or something else."""
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def check_depth(value: Any) -> None:
    """Refuse what is nested too deep.

    Raises:
        ValueError: a list or an object within more than `DEEPEST` others.
    """
    level = [value]
    for _ in range(DEEPEST + 1):
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
        if not level:
            return
    raise ValueError(TOO_DEEP)


def refuse_constant(name: str) -> None:
    """For `json.loads(parse_constant=...)`: NaN and the infinities are no JSON.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{name} is not a JSON number")
