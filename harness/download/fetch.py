"""One file over HTTP into its `.part`, gone on with where an earlier try broke off, if the server's file is the same.

What makes it the same is kept in `.part.json` beside it: the address, ETag, Last-Modified and size.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import re
import shutil
import socket
import ssl
import time
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import NoReturn

from pydantic import TypeAdapter

from harness.download import DownloadError, web
from harness.progress import byte_progress, size_text

_CHUNK_BYTES = 1 << 18
_MAY_PASS = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
# Of these another try within seconds is no cure.
_LASTING = (socket.gaierror, ssl.SSLCertVerificationError, ConnectionRefusedError)


@dataclass(frozen=True)
class Patience:
    """How long a silent server is waited for, and the pauses before each further try that brings nothing new."""

    timeout_s: float = 60.0
    pauses_s: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)


PATIENCE = Patience()


@dataclass(frozen=True)
class _Version:
    """Which version of a file a server gave."""

    url: str
    etag: str | None
    modified: str | None
    size_bytes: int | None

    @property
    def can_be_told(self) -> bool:
        """Whether another version would show."""
        return bool(self.etag or self.modified)

    def continued_by(self, other: _Version) -> bool:
        """Whether the other is the same, of which the size may be known only now."""
        known = self if self.size_bytes is not None else dataclasses.replace(self, size_bytes=other.size_bytes)
        return known == other


_VERSION = TypeAdapter(_Version)


class _BrokenOff(Exception):
    """This try failed, the next one may not."""


def fetch(url: str, part: Path, *, size_bytes: int | None, most_bytes: int, patience: Patience = PATIENCE) -> None:
    """Make `part` the whole file of an address.

    Args:
        url: http or https.
        part: what is there of the file already, if anything; stays when this fails, so that a later call goes on.
        size_bytes: the file's published size, None if unknown.
        most_bytes: no more is fetched where the published size is unknown.
        patience: with a server that is silent or breaks off.

    Raises:
        DownloadError: no such file, no connection after some tries, another size than the published one, or no space.
        OSError: `part` cannot be written.
    """
    job = _Fetch(url, part, size_bytes=size_bytes, most_bytes=most_bytes, timeout_s=patience.timeout_s)
    reached, failures = job.length, 0
    while True:
        try:
            job.attempt()
            return
        except _BrokenOff as error:
            # A file that starts over each time brings nothing new, however much of it comes.
            failures = 0 if job.length > reached else failures + 1
            reached = max(reached, job.length)
            if failures >= len(patience.pauses_s):
                fix = "run the same command again, which goes on from there"
                raise job.failed(f"{error}; {size_text(job.length)} of it are kept; {fix}") from None
            time.sleep(patience.pauses_s[failures])


def discard(part: Path) -> None:
    """Forget what was fetched of a file."""
    part.unlink(missing_ok=True)
    _beside(part).unlink(missing_ok=True)


def finish(part: Path, target: Path) -> None:
    """Give a whole file its name."""
    part.replace(target)
    _beside(part).unlink(missing_ok=True)


def _beside(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


class _Fetch:
    """One file that is being fetched; `attempt` is called until it returns."""

    def __init__(self, url: str, part: Path, *, size_bytes: int | None, most_bytes: int, timeout_s: float) -> None:
        self.url, self.part, self.timeout_s = url, part, timeout_s
        self.published_bytes, self.most_bytes = size_bytes, most_bytes

    @property
    def length(self) -> int:
        """Bytes that are there."""
        return self.part.stat().st_size if self.part.exists() else 0

    def failed(self, what: str) -> DownloadError:
        """An error that names file and address."""
        return DownloadError(f"{self.part.name.removesuffix('.part')}: {self.url} {what}")

    def attempt(self) -> None:
        """Ask for what is lacking and write it.

        Raises:
            _BrokenOff: some is lacking still.
            DownloadError, OSError: see `fetch`.
        """
        kept, length = self._kept(), self.length
        if kept and kept.size_bytes == length:
            return
        with self._answer(_ask_for_rest(kept, length) if kept else {}) as answer:
            start = length if answer.status == HTTPStatus.PARTIAL_CONTENT else 0
            version = self._version(answer, start)
            if start and not (kept and kept.continued_by(version)):
                self._start_over("gives another version of the file than before")
            self._check(answer, version, start)
            if not start:  # before the new version's name stands beside it
                self.part.write_bytes(b"")
            text = json.dumps(dataclasses.asdict(version))
            _beside(self.part).write_text(text, encoding="utf-8")
            self._receive(answer, version.size_bytes, start)

    def _kept(self) -> _Version | None:
        """The version that the part is of, if it can be continued."""
        try:
            known = _VERSION.validate_json(_beside(self.part).read_bytes(), strict=True)
        except (OSError, ValueError):
            return None  # whatever is wrong with it, starting over is right
        if not all(text is None or text.isprintable() for text in (known.etag, known.modified)):
            return None  # they go into a header
        if known.url != self.url or not known.can_be_told or not 0 < self.length <= (known.size_bytes or self.length):
            return None
        return known

    def _answer(self, headers: dict[str, str]) -> http.client.HTTPResponse:
        try:
            return web.get(self.url, headers, timeout_s=self.timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                status, reason = error.code, _said(error.reason)
            if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._start_over("does not have the rest of what it gave before")
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _MAY_PASS:
                raise _BrokenOff(f"answers {status} {reason}") from None
            raise self.failed(f"answers {status} {reason}; {self._by_hand()}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(cause, _LASTING):
                fix = "check the connection, or name a mirror with --base-url"
                raise self.failed(f"cannot be reached ({_said(cause)}); {fix}") from None
            if isinstance(cause, http.client.InvalidURL) or not isinstance(cause, OSError | http.client.HTTPException):
                what = f"is or leads to no address that can be asked ({_said(cause)})"
                raise self.failed(f"{what}; {self._by_hand()}") from None
            raise _BrokenOff(f"does not answer ({_said(cause)})") from None

    def _version(self, answer: http.client.HTTPResponse, start: int) -> _Version:
        """What the server says of the file.

        Raises:
            _BrokenOff: it begins elsewhere than where it was asked to.
        """
        size = answer.length
        if answer.status == HTTPStatus.PARTIAL_CONTENT:
            match = re.fullmatch(r"bytes (\d{1,18})-\d+/(\d{1,18})", answer.getheader("Content-Range", ""))
            if match is None or int(match[1]) != start or not start:
                self._start_over("does not give the part of the file that was asked for")
            size = int(match[2])
        return _Version(self.url, answer.getheader("ETag"), answer.getheader("Last-Modified"), size)

    def _check(self, answer: http.client.HTTPResponse, version: _Version, start: int) -> None:
        """Refuse what can be refused before it is read."""
        kind = answer.headers.get_content_type()
        if kind == "text/html" or answer.getheader("Content-Encoding", "identity") != "identity":
            raise self.failed(f"gives a web page or a recoded file ({kind}) instead of the file; {self._by_hand()}")
        size, published = version.size_bytes, self.published_bytes
        if published is not None and size is not None and size != published:
            fix = "it is not the published file: name another address with --base-url"
            raise self.failed(f"has {size:,} bytes, the published file has {published:,}; {fix}")
        if size is None:
            return
        if size > self.limit:
            raise self.failed(f"has {size:,} bytes, more than the {self.limit:,} that are allowed; {self._by_hand()}")
        free = shutil.disk_usage(self.part.parent).free
        if size - start > free:
            left = f"{self.part.parent} has {size_text(free)} left: free some, or name a folder on another disk"
            raise self.failed(f"has {size_text(size - start)} to come; {left}")

    @property
    def limit(self) -> int:
        """Bytes that the file has at most."""
        return self.most_bytes if self.published_bytes is None else self.published_bytes

    def _receive(self, answer: http.client.HTTPResponse, size: int | None, start: int) -> None:
        done, limit = start, self.limit if size is None else size
        label = self.part.name.removesuffix(".part")
        with (
            self.part.open("ab" if start else "wb") as file,
            byte_progress(total=size or self.published_bytes, done=start, label=label) as advance,
        ):
            while chunk := _read(answer.read1):
                done += len(chunk)
                if done > limit:
                    break
                file.write(chunk)
                file.flush()  # what came stays, however this process ends
                advance(len(chunk))
        if done > limit:
            discard(self.part)
            raise self.failed(f"gives more than the {limit:,} bytes that it may have; {self._by_hand()}")
        expected = self.published_bytes if size is None else size
        if expected is not None and done < expected:
            raise _BrokenOff(f"breaks off after {done:,} of {expected:,} bytes")

    def _start_over(self, why: str) -> NoReturn:
        discard(self.part)
        raise _BrokenOff(why)

    def _by_hand(self) -> str:
        return f"try later, put the file into {self.part.parent} by hand, or name a mirror with --base-url"


def _ask_for_rest(kept: _Version, length: int) -> dict[str, str]:
    headers = {"Range": f"bytes={length}-"}
    # A weak ETag may not stand in If-Range (RFC 9110, 13.1.5).
    strong = None if (kept.etag or "").startswith("W/") else kept.etag
    if condition := strong or kept.modified:
        headers["If-Range"] = condition
    return headers


def _read(read1: Callable[[int], bytes]) -> bytes:
    """The next bytes; errors of the connection are told from those of the disk."""
    try:
        return read1(_CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOff(f"breaks off ({_said(error)})") from None


def _said(error: object) -> str:
    """An error's text in one line; a server's words could hold anything."""
    text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split()) or type(error).__name__
