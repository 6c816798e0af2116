"""Signs of life on long work: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
LOG_EVERY_S = 30.0


def note(line: str) -> None:
    """A line on stderr at once, above a bar if there is one."""
    tqdm.write(line, file=sys.stderr)


def progress(items: Iterable[T], *, total: int, label: str, units: str, first: int = 0) -> Iterator[T]:
    """The items, with how far they are on stderr; what a log shows begins after half a minute.

    `first` of the total were done before.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, initial=first, desc=label, unit=units, leave=False)
        return
    started = said = time.monotonic()
    for done, item in enumerate(items, start=first):
        now = time.monotonic()
        if done > first and now - said >= LOG_EVERY_S:
            said, left = now, (now - started) / (done - first) * (total - done)
            print(f"{label}: {done} of {total} {units}, about {left / 60:.1f} min left", file=sys.stderr, flush=True)
        yield item


@contextmanager
def byte_progress(*, total: int | None, done: int, label: str) -> Iterator[Callable[[int], None]]:
    """How far one long file is, shown as `progress` shows items; what it gives is told of further bytes.

    Args:
        total: bytes of the file, None if unknown.
        done: bytes that were there before.
        label: the file.
    """
    if sys.stderr.isatty():
        with tqdm(total=total, initial=done, desc=label, unit="B", unit_scale=True, leave=False) as bar:

            def show(count: int) -> None:
                bar.update(count)

            yield show
        return
    said = time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, said
        done += count
        if time.monotonic() - said >= LOG_EVERY_S:
            said = time.monotonic()
            of = "" if total is None else f" of {size_text(total)}"
            print(f"{label}: {size_text(done)}{of}", file=sys.stderr, flush=True)

    yield advance


def size_text(count: int) -> str:
    """Bytes as people say them: 13.5 GB, 36.7 MB, 912 bytes."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
