"""Who runs which cell: of several processes, on machines that share a results folder, one at a time.

A claim is a file `claims/KEY/NUMBER` of JSON that names the process. The highest number counts. Its owner touches it
every few seconds; what was not touched for a minute, or is of a process of this machine that is gone, is taken over by
making the next number, which the file system gives to one process only. Ages are compared by the clock of the file
system, never by those of two machines.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.store import StoreError

FOLDER = "claims"
STALE_S, BEAT_S = 60.0, 10.0
WAIT_S = 2.0
"""Between two looks at a cell that another process runs."""
_PROC = Path("/proc")
_ENDED = ("Z", "X")  # killed, and not yet noticed by whoever started it
_LONGEST_NAME = 18  # digits of a number that this code has made


@dataclass(frozen=True)
class Title:
    """The file of a claim and what its owner wrote there."""

    path: Path
    owner: dict[str, Any]

    def held(self) -> bool:
        """Whether it is still the owner's; a machine that slept for a while may have lost it.

        A share that is away is asked again, for as long as a claim may be silent.

        Raises:
            StoreError: it stays away.
        """
        until = time.monotonic() + STALE_S
        while True:
            try:
                return _read(self.path) == self.owner and _newest(self.path.parent) == self.path
            except (FileNotFoundError, NotADirectoryError):
                return False
            except OSError as error:
                if time.monotonic() > until:
                    raise StoreError(f"{self.path}: cannot be read ({error.strerror}); is its disk there?") from error
            time.sleep(WAIT_S)


@dataclass
class Claim:
    """A cell that is ours until `release`, unless others had reason to think that we are gone.

    `taken_over`: whoever had it before has not released it.
    """

    title: Title
    beat_s: float
    taken_over: bool = False
    _over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._beat, name="claim", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Let others have the cell."""
        self._over.set()
        self._thread.join()
        path = self.title.path
        with contextlib.suppress(OSError):  # a share that is away; or others want the cell
            if _owner(path) == self.title.owner:
                path.unlink(missing_ok=True)
            path.parent.rmdir()

    def _beat(self) -> None:
        while not self._over.wait(self.beat_s):
            with contextlib.suppress(OSError):  # a share that is away for a moment; `held` tells what came of it
                if _owner(self.title.path) == self.title.owner:
                    os.utime(self.title.path)


@dataclass(frozen=True)
class Claims:
    """The claims on the cells of one results folder.

    Attributes:
        root: the results folder.
        stale_s: how long a process may be silent before its claim is void.
        beat_s: how often ours are touched.
    """

    root: Path
    stale_s: float = STALE_S
    beat_s: float = BEAT_S

    def take(self, key: str) -> Claim | dict[str, Any]:
        """Claim a cell, or tell who has it.

        Raises:
            StoreError: the folder cannot be written.
        """
        owner, folder = _ourselves(), self.root / FOLDER
        while True:
            try:
                return self._take(folder / key, owner)
            except FileNotFoundError:  # whoever had it removed the folder just now
                continue
            except OSError as error:
                fix = "remove what is in the way, or choose another --results DIR"
                raise StoreError(f"{error.filename or folder}: cannot be written ({error.strerror}); {fix}") from error

    def _take(self, folder: Path, owner: dict[str, Any]) -> Claim | dict[str, Any]:
        folder.mkdir(parents=True, exist_ok=True)
        with _written(folder, owner) as (temporary, now):
            newest = _newest(folder)
            if newest is not None and (holder := self._holder(newest, now)) is not None:
                return holder
            path = folder / str(1 if newest is None else int(newest.name) + 1)
            if not _publish(temporary, path, owner):
                return _owner(path) or {}
            if (first := _newest(folder)) not in (None, path):
                # A listing may have missed the claim of another process that was just replacing a void one.
                path.unlink(missing_ok=True)
                return _owner(first) or {}
        for older in _claims(folder):
            if int(older.name) < int(path.name):
                with contextlib.suppress(OSError):  # a folder of that name; it counts no more
                    older.unlink()
        return Claim(Title(path, owner), self.beat_s, taken_over=newest is not None)

    def _holder(self, path: Path, now: float) -> dict[str, Any] | None:
        """Who holds a claim; None where it is void."""
        try:
            age, owner = now - path.stat().st_mtime, _owner(path)
        except FileNotFoundError:
            return None
        return None if age > self.stale_s or (owner is not None and _is_gone(owner)) else owner or {}


def _ourselves() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), **_machine(os.getpid()), "token": secrets.token_hex(8)}


def _machine(pid: int) -> dict[str, Any]:
    """What tells this machine, its container and this process from later ones with the same names and numbers."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        space = str((_PROC / "self/ns/pid").readlink())
        # After the name in brackets, which may hold spaces, come its state and, as the twentieth field, when it began.
        state, *others = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        began = others[18]
    except (OSError, IndexError, ValueError):
        return {}
    if state in _ENDED:
        return {}
    return {"boot": boot, "space": space, "began": began}


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether the owner ran on this machine and runs no more; of other machines nobody here can tell."""
    here = _machine(os.getpid())
    if (
        not here
        or type(owner.get("pid")) is not int
        or any(owner.get(name) != here[name] for name in ("boot", "space"))
    ):
        return False
    return _machine(owner["pid"]).get("began") != owner.get("began")


@contextlib.contextmanager
def _written(folder: Path, owner: dict[str, Any]) -> Iterator[tuple[Path, float]]:
    """A file with our name, and what time the file system has."""
    temporary = folder / f".{owner['token']}.tmp"
    try:
        temporary.write_text(json.dumps(owner), encoding="utf-8")
        yield temporary, temporary.stat().st_mtime
    finally:
        temporary.unlink(missing_ok=True)


def _publish(temporary: Path, path: Path, owner: dict[str, Any]) -> bool:
    """Give the file its name; False if another process had it first."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # no hard links here
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(json.dumps(owner))
        except FileExistsError:
            return False
    return True


def _claims(folder: Path) -> list[Path]:
    names = (path for path in folder.iterdir() if path.name.isascii() and path.name.isdecimal())
    return [path for path in names if len(path.name) <= _LONGEST_NAME]


def _newest(folder: Path) -> Path | None:
    return max(_claims(folder), key=lambda path: int(path.name), default=None)


def _owner(path: Path) -> dict[str, Any] | None:
    """Who wrote a claim; None if it is gone, cannot be read or is not yet written out."""
    try:
        return _read(path)
    except OSError:
        return None


def _read(path: Path) -> dict[str, Any] | None:
    """Who wrote a claim; None if it is not yet written out."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
