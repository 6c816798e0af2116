"""`run --shard I/N`: one of N parts of a matrix, for jobs that know nothing of each other."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`, counted from 1."""

    number: int
    count: int

    def of(self, cells: Sequence[T]) -> tuple[T, ...]:
        """The cells `number`, `number + count` and so on; none where there are fewer cells than parts."""
        return tuple(cells[self.number - 1 :: self.count])

    def __str__(self) -> str:
        return f"shard {self.number}/{self.count}"


def parse(text: str) -> Shard:
    """The shard of a command line.

    Raises:
        argparse.ArgumentTypeError: it is not I/N with 1 <= I <= N.
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"must be I/N such as 2/8, with I from 1 to N, got {text!r}")
    return Shard(int(found[1]), int(found[2]))
