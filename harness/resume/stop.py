"""Ctrl-C and SIGTERM: a training step is finished and kept before the run leaves; anything else ends at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

GRACE_S = 8.0
"""A step that takes longer is given up: the run is to have left ten seconds after it was asked to."""


class Stop:
    """Whether this process was asked to leave; a second request, or one outside of a step, raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.requested = False
        self._steps = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[Stop]:
        """Take both signals until the end of the block; outside of the main thread they cannot be taken."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._asked) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            self._end_grace()
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def stepping(self) -> Iterator[None]:
        """In the block requests wait for `check`, up to `GRACE_S`."""
        self._steps += 1
        try:
            yield
        finally:
            self._steps -= 1

    def check(self) -> None:
        """Between two steps, with everything kept: leave if asked to.

        Raises:
            KeyboardInterrupt: it was asked to.
        """
        if self.requested:
            self._end_grace()
            raise KeyboardInterrupt

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if not self._steps or self.requested:
            self.requested = True
            self._end_grace()
            raise KeyboardInterrupt
        self.requested = True
        if hasattr(signal, "setitimer"):
            self._before: Any = signal.signal(signal.SIGALRM, self._asked)
            signal.setitimer(signal.ITIMER_REAL, GRACE_S)

    def _end_grace(self) -> None:
        if hasattr(self, "_before"):
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)
            del self._before
