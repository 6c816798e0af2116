"""Fixed subsets of a split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from tasks import Example

E = TypeVar("E", bound=Example)


def nested_subset(examples: Sequence[E], limit: int | None) -> list[E]:
    """All examples as they come, or if there are more than `limit` the first of them by the SHA-256 of their ids.

    Of two subsets the smaller is a prefix of the larger, whatever the order of the files and the seed of the run.

    Raises:
        ValueError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if limit is None or limit >= len(examples):
        return list(examples)
    return sorted(examples, key=lambda example: hashlib.sha256(example.id.encode()).digest())[:limit]
