"""Signs of life on long work: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
LOG_EVERY_S = 30.0


def progress(items: Iterable[T], *, total: int, label: str, units: str) -> Iterator[T]:
    """The items, with how far they are on stderr; what a log shows begins after half a minute."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=label, unit=units, leave=False)
        return
    started = said = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - said >= LOG_EVERY_S:
            said, left = now, (now - started) / done * (total - done)
            print(f"{label}: {done} of {total} {units}, about {left / 60:.1f} min left", file=sys.stderr, flush=True)
        yield item
