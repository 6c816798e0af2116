"""Runs a reader on bad inputs and holds it to the rule: a clear error in one line, or success, within its folder.

What counts as a clear error is what `harness.cli` prints as one line. Anything else that a reader raises fails the test
with the smallest such input.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import HypothesisWarning
from hypothesis.strategies import SearchStrategy

from harness import cli
from harness.out_of_memory import ran_out
from tests.fuzz.mutations import ESCAPED

T = TypeVar("T")

FULL = 200
"""Bad inputs to every reader. One of several files gets a part of them for each file, and one that takes seconds gets
fewer; with VLTUNE_FULL_FUZZ=1 there are 200 of everything."""
MOST_BYTES = 10**9
"""By which the memory of the process may rise above what it was before the reader was called."""
_ADDRESS_BYTES = 6 * 10**9
_LONGEST_S = 10
_LONGEST_LINE = 1_500


class TooSlow(BaseException):
    """A reader hangs; no Exception, so that no reader reports it as its own."""


@dataclass
class Outcome:
    """How many inputs were refused, how many read."""

    refused: int = 0
    read: int = 0

    @property
    def mostly_refused(self) -> bool:
        """Whether more than half of the inputs were: for readers that may take some of them as they are."""
        return self.refused > self.read


def cases(usual: int = FULL) -> int:
    """How many inputs one file of a reader, or a slow reader, is given: `usual` ones, unless all are asked for."""
    return FULL if os.environ.get("VLTUNE_FULL_FUZZ") == "1" else usual


def fuzz(
    read: Callable[[T], object],
    inputs: SearchStrategy[T],
    *,
    good: T,
    folder: Path,
    errors: tuple[type[Exception], ...] | None = None,
    names: str | None = None,
    count: int = FULL,
) -> Outcome:
    """Call `read` with one good input and `count` others.

    Args:
        read: puts an input into `folder` and reads it.
        inputs: bad ones.
        good: an input that is read without an error, before all others.
        folder: the only one in which files may come and go; an empty one within the test's own.
        errors: what may be raised; by default whatever the command line has a line for.
        names: what every error must name, by default the folder's path.
        count: how many.

    Returns:
        How it went with the bad ones, which every test asserts: else a reader that takes anything passes.
    """
    found, before = Outcome(), _around(folder)
    read(good)

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def each(value: T) -> None:
        try:
            with _in_time(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", module=r"PIL\.")  # as `cli.main` has it
                read(value)
        except Exception as error:
            if (errors is None and cli.refusal(error) is None) or (
                errors is not None and not isinstance(error, errors)
            ):
                raise
            check_line(error, names=str(folder) if names is None else names)
            found.refused += 1
        else:
            found.read += 1

    with _within_memory(), warnings.catch_warnings():
        warnings.simplefilter("ignore", HypothesisWarning)  # an input that fails may be long
        each()
    assert _around(folder) == before, "a file outside of the folder came, went or changed"
    assert not list(Path("/tmp").glob(f"*{ESCAPED}*")), "a hostile name was followed"
    assert found.refused + found.read >= count, "Hypothesis has run out of inputs: give it more of them"
    return found


def check_line(error: Exception, *, names: str = "") -> str:
    """The one line that the command line prints for an error, once it is known to be a clear one."""
    line = cli.refusal(error) or cli.one_line(error)
    assert line.isprintable(), f"control characters: {line!r}"
    assert 10 < len(line) <= _LONGEST_LINE, f"{len(line)} characters: {line[:200]!r}"
    assert names in str(error), f"{names!r} is not named: {line!r}"
    cause: BaseException | None = error
    while cause is not None:
        assert not ran_out(cause), f"refused only as memory ran out: {cause!r}"
        cause = cause.__cause__ or cause.__context__
    return line


def _around(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of everything beside a folder, and beside the one that holds it."""
    top = folder.parent.parent
    found = {}
    for where, folders, files in os.walk(top):
        if Path(where) == folder.parent:
            folders[:] = [name for name in folders if name != folder.name]
        for name in (*folders, *files):
            entry = Path(where, name).lstat()
            # The time of a folder changes with what is in it, which is looked at itself.
            found[os.path.join(where, name)] = (entry.st_size, 0 if name in folders else entry.st_mtime_ns)  # noqa: PTH118
    return found


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise TooSlow(f"not done after {_LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, _LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _within_memory() -> Iterator[None]:
    """Fails if the peak of the block is too high; on Linux, where the peak can be reset."""
    if sys.platform != "linux":
        yield
        return
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status_bytes("VmRSS")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    # What would take the machine's memory gets an error of its own, which `check_line` finds.
    resource.setrlimit(resource.RLIMIT_AS, (_status_bytes("VmSize") + _ADDRESS_BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    rise = _status_bytes("VmHWM") - before
    assert rise < MOST_BYTES, f"memory rose by {rise / 1e6:,.0f} MB"


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{field}:")))
