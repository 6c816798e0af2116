"""That predictions and examples are about the same things."""

from __future__ import annotations

from collections.abc import Sequence


def check_same_ids(predicted: Sequence[str], expected: Sequence[str]) -> None:
    """Whether there is exactly one prediction for each example.

    Raises:
        ValueError: an id is missing, unknown or doubled; names the first.
    """
    for what, ids in (("prediction", predicted), ("example", expected)):
        if len(set(ids)) < len(ids):
            twice = next(id for id in ids if ids.count(id) > 1)
            raise ValueError(f"more than one {what} for {twice!r}")
    for what, odd in (
        ("no prediction", set(expected) - set(predicted)),
        ("no example", set(predicted) - set(expected)),
    ):
        if odd:
            raise ValueError(f"{what} for {min(odd)!r} ({len(odd)} such ids of {len(expected)} examples)")
