"""Parts of a matrix: together they are the whole, none holds what another holds."""

from __future__ import annotations

import argparse

import pytest

from harness.parallel import shard


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12])
def test_the_shards_are_the_whole_matrix(count: int) -> None:
    cells = list(range(7))
    parts = [shard.parse(f"{number}/{count}").of(cells) for number in range(1, count + 1)]
    assert sorted(cell for part in parts for cell in part) == cells
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_shard_takes_every_nth_cell() -> None:
    assert shard.parse("2/3").of("abcdefg") == ("b", "e")
    assert str(shard.parse(" 2/3 ")) == "shard 2/3"


@pytest.mark.parametrize("text", ["0/2", "3/2", "1/0", "1", "/", "1/2/3", "-1/2", "a/b", "1.0/2", "²/3", ""])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be I/N such as 2/8, with I from 1 to N, got"):
        shard.parse(text)
