"""Until something outside of this process has happened."""

from __future__ import annotations

import time
from collections.abc import Callable

LONGEST_S = 240.0


def wait(done: Callable[[], bool], what: str, *, longest_s: float = LONGEST_S) -> None:
    """Until it is so.

    Raises:
        AssertionError: it takes too long.
    """
    started = time.monotonic()
    while not done():
        assert time.monotonic() - started < longest_s, f"it took too long until {what}"
        time.sleep(0.05)
