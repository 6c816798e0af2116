"""A real server on 127.0.0.1 that serves files as servers should, and misbehaves for as many requests as it is told."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODIFIED = "Wed, 01 Jul 2026 10:00:00 GMT"


class Handler(BaseHTTPRequestHandler):
    """One request; `answer` and its like are what misbehaviours are made of."""

    def do_GET(self) -> None:
        site: Site = self.server.site
        site.requests.append((self.path, self.headers))
        planned = site.planned.get(self.path, [])
        (planned.pop(0) if planned else good)(self)

    @property
    def content(self) -> bytes | None:
        return self.server.site.files.get(self.path)

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.content or b"").hexdigest()[:16]}"'

    @property
    def asked_from(self) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(match[1]) if match else 0

    def answer(self, status: int, body: bytes, *, length: int | None = None, **headers: str) -> None:
        """Send this, with the length that it has unless another is claimed; `Content_Range` is Content-Range."""
        self.send_response(status)
        known = {"ETag": self.etag, "Last-Modified": MODIFIED, "Content-Type": "application/octet-stream"}
        known |= {name.replace("_", "-"): value for name, value in headers.items()}
        known.setdefault("Content-Length", str(len(body) if length is None else length))
        for name, value in known.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def partial(self, body: bytes, *, start: int | None = None, total: int | None = None, **rest: str | int) -> None:
        """Send 206, with the range and total as they are unless others are claimed."""
        start = self.asked_from if start is None else start
        total = len(self.content or b"") if total is None else total
        self.answer(206, body, Content_Range=f"bytes {start}-{total - 1}/{total}", **rest)

    def log_message(self, *_: object) -> None:
        """Quiet."""


Behaviour = Callable[[Handler], None]


def good(request: Handler) -> None:
    if request.content is None:
        request.answer(404, b"")
        return
    start = request.asked_from
    same = request.headers.get("If-Range") in (None, request.etag, MODIFIED)
    if not start or not same:
        request.answer(200, request.content)
    elif start >= len(request.content):
        request.answer(416, b"", Content_Range=f"bytes */{len(request.content)}")
    else:
        request.partial(request.content[start:])


def breaks_off(after: int) -> Behaviour:
    """Promises the rest of the file, and hangs up after so many bytes of it."""

    def answer(request: Handler) -> None:
        rest = request.content[request.asked_from :]
        if request.asked_from:
            request.partial(rest[:after], length=len(rest))
        else:
            request.answer(200, rest[:after], length=len(rest))

    return answer


def says(status: int, body: bytes = b"", **headers: str) -> Behaviour:
    return lambda request: request.answer(status, body, **headers)


def ignores_range(request: Handler) -> None:
    request.answer(200, request.content)


def ignores_if_range(request: Handler) -> None:
    request.partial(request.content[request.asked_from :])


class Site:
    """What the server has and does; `planned` holds the misbehaviours to come by path."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.planned: dict[str, list[Behaviour]] = {}
        self.requests: list[tuple[str, Message]] = []
        self._server = _Quiet(("127.0.0.1", 0), Handler)
        self._server.site = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Quiet(ThreadingHTTPServer):
    site: Site

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no news."""
