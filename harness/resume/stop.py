"""Ctrl-C and SIGTERM: a training step is finished and kept before the run leaves; anything else ends at once."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

INTERRUPTED = 130
"""The exit code of a run that was asked to leave."""
GRACE_S = 8.0
"""A step that takes longer is given up: the run is to have left ten seconds after it was asked to."""
ONE_REQUEST_S = 1.0
"""What comes so soon after a request is the same one: a signal to all processes of a job is also passed on by some."""


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """After the block both signals do what they did before; outside of the main thread they cannot be set."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stop:
    """Whether this process was asked to leave; a second request, or one outside of a step, raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.requested = False
        self._requested_at = 0.0
        self._steps = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[Stop]:
        """Take both signals until the end of the block; outside of the main thread they cannot be taken."""
        with handlers_kept():
            if threading.current_thread() is threading.main_thread():
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, self._asked)
            try:
                yield self
            finally:
                self._end_grace()

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
        now, before = time.monotonic(), self.requested
        if before and now - self._requested_at < ONE_REQUEST_S and number != getattr(signal, "SIGALRM", None):
            return
        self.requested, self._requested_at = True, now
        if not self._steps or before:
            self._end_grace()
            raise KeyboardInterrupt
        if hasattr(signal, "setitimer"):
            self._before: Any = signal.signal(signal.SIGALRM, self._asked)
            signal.setitimer(signal.ITIMER_REAL, GRACE_S)

    def _end_grace(self) -> None:
        if hasattr(self, "_before"):
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)
            del self._before
