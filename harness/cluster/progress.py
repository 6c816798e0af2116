"""How far a matrix is whose cells run side by side and end in any order."""

from __future__ import annotations

import time
from collections.abc import Callable

from harness import outlook
from harness.plan import Plan

EVERY_S = 5.0
"""Between two lines, where cells end faster."""


class Progress:
    """Which cells run and how the others ended.

    Args:
        plan: the matrix.
        say: is told about it now and then as cells end.
    """

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self._kinds = outlook.kinds(plan)
        self._say = say
        self._said = -EVERY_S
        self._left = dict.fromkeys(range(len(self._kinds)))
        self._running: dict[int, float] = {}
        self._ended: list[outlook.Ended] = []

    @property
    def running(self) -> int:
        """How many cells run now."""
        return len(self._running)

    def begin(self, index: int) -> None:
        """A cell runs; may be called again while it does."""
        self._running.setdefault(index, time.monotonic())

    def lost(self, index: int) -> None:
        """A cell runs no more, and is to begin anew."""
        self._running.pop(index, None)

    def end(self, index: int, status: str) -> None:
        """A cell has ended; one that never ran says nothing about the time of others."""
        now, at_once = time.monotonic(), max(1, len(self._running))
        begun = self._running.pop(index, None)
        del self._left[index]
        self._ended.append(outlook.Ended(self._kinds[index], status, None if begun is None else now - begun))
        if len(self._kinds) > 1 and (not self._left or now - self._said >= EVERY_S):
            self._said = now
            waiting = [self._kinds[other] for other in self._left]
            total, running = len(self._kinds), len(self._running)
            self._say(outlook.summary(self._ended, waiting, total=total, running=running, at_once=at_once))
