"""Fixed subsets of a split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from tasks import Example

E = TypeVar("E", bound=Example)


def nested_subset(examples: Sequence[E], limit: int | None) -> list[E]:
    """All examples as they come, or the first `limit` of them by the SHA-256 of their ids.

    A smaller subset is a prefix of a larger one, whatever the order of the files and the seed of the run.

    Raises:
        ValueError: a limit below 1.
    """
    if limit is None:
        return list(examples)
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    return sorted(examples, key=lambda example: hashlib.sha256(example.id.encode()).digest())[:limit]
