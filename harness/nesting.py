"""How deep lists and objects out of a file may be nested: functions that call themselves must come to an end."""

from __future__ import annotations

from typing import Any

DEEPEST = 100
TOO_DEEP = f"lists or objects within more than {DEEPEST} others"


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
