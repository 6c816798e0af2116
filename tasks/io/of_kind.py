"""Examples of one kind: what a task is given must be its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from tasks import Example

E = TypeVar("E", bound=Example)


def of_kind(examples: Sequence[Example], kind: type[E], does: str) -> list[E]:
    """The examples, known to be of one kind; `does` says what the task does with these.

    Raises:
        TypeError: an example of another task.
    """
    found = [example for example in examples if isinstance(example, kind)]
    if len(found) < len(examples):
        other = next(example for example in examples if not isinstance(example, kind))
        raise TypeError(f"{does}, got {type(other).__name__} {other.id!r}")
    return found
