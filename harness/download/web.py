"""GET over http and https alone: no other kind of address is opened or followed, and https stays https."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import IO, Any
from urllib.parse import urlsplit


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https, and from http to http; urllib itself refuses kinds such as file:."""

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage
    ) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except ValueError:  # no address, over which urllib forgets the answer that it came with
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("https", urlsplit(req.full_url).scheme):
            raise urllib.error.HTTPError(req.full_url, code, f"redirect to {newurl}, which is refused", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def get(url: str, headers: Mapping[str, str], *, timeout_s: float) -> http.client.HTTPResponse:
    """Ask for a file; proxies are those of the environment, certificates are checked.

    Raises:
        urllib.error.HTTPError: the answer is none of 200 to 299, or a redirect that is not followed.
        OSError, http.client.HTTPException: there is no answer within `timeout_s`, or no valid one.
        ValueError: the address, or the one of a redirect, is none.
    """
    # Not build_opener, which would open file:, ftp: and data: as well.
    opener = urllib.request.OpenerDirector()
    handlers = (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPDefaultErrorHandler,
        _Redirects,
    )
    for handler in handlers:
        opener.add_handler(handler())
    answer: http.client.HTTPResponse = opener.open(
        urllib.request.Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "vltune", **headers}),
        timeout=timeout_s,
    )
    return answer


def problem_with(base_url: str) -> str | None:
    """What is wrong with an address that others are to be built on; None for a good one."""
    try:
        parts = urlsplit(base_url)
        host, _ = parts.hostname or "", parts.port
        host.encode("idna")  # as a connection does: no part of it may be empty or too long
    except ValueError:
        return "is no address"
    if parts.scheme not in ("http", "https") or not host:
        return "must begin with https:// or http:// and name a host"
    if parts.username is not None:
        return "must not hold a user name or password"
    if not base_url.isascii():
        return "must be plain ASCII: write a host's name as xn--..., other letters as %C3%A4"
    if parts.query or parts.fragment or any(c.isspace() or not c.isprintable() for c in base_url):
        return "must be a folder's address, without ?, # or blanks"
    return None
