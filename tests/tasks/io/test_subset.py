from __future__ import annotations

import hashlib
import random

import pytest

from tasks import Example
from tasks.io.subset import nested_subset

EXAMPLES = [Example(id=str(number), image=None) for number in range(50)]


def test_everything_in_its_own_order() -> None:
    assert nested_subset(EXAMPLES, None) == EXAMPLES


def test_ordered_by_hash() -> None:
    first = min(EXAMPLES, key=lambda example: hashlib.sha256(example.id.encode()).hexdigest())
    assert nested_subset(EXAMPLES, 1) == [first]


def test_smaller_is_prefix_of_larger() -> None:
    assert nested_subset(EXAMPLES, 7) == nested_subset(EXAMPLES, 30)[:7]


def test_independent_of_file_order() -> None:
    shuffled = random.Random(3).sample(EXAMPLES, len(EXAMPLES))
    assert nested_subset(shuffled, 20) == nested_subset(EXAMPLES, 20)


@pytest.mark.parametrize("limit", [50, 1000])
def test_a_limit_that_leaves_nothing_out_changes_nothing(limit: int) -> None:
    assert nested_subset(EXAMPLES, limit) == EXAMPLES


@pytest.mark.parametrize("limit", [0, -1])
def test_refuses_limits_below_one(limit: int) -> None:
    with pytest.raises(ValueError, match=f"limit must be at least 1, got {limit}"):
        nested_subset(EXAMPLES, limit)
