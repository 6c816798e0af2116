"""One file from a server that breaks off, ignores what it is asked, changes the file or lies about it."""

from __future__ import annotations

import random
import socket
import threading
import urllib.error
import urllib.request
from http.client import HTTPMessage
from pathlib import Path

import pytest

from harness.download import DownloadError, web
from harness.download.fetch import Patience, fetch
from tests.harness.download.server import (
    MODIFIED,
    Behaviour,
    Handler,
    Site,
    breaks_off,
    ignores_if_range,
    ignores_range,
    says,
)

CONTENT, OTHER = (random.Random(seed).randbytes(1_000_000) for seed in (1, 2))
AT_ONCE = Patience(timeout_s=5, pauses_s=(0.0, 0.0, 0.0))
NEVER = Patience(timeout_s=5, pauses_s=())
KEPT = 300_000


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "a.zip.part"


@pytest.fixture(autouse=True)
def file(site: Site) -> None:
    site.files["/a.zip"] = CONTENT


def get(
    site: Site, part: Path, *, patience: Patience = AT_ONCE, size: int | None = None, most: int = 2_000_000
) -> bytes:
    fetch(f"{site.url}/a.zip", part, size_bytes=size, most_bytes=most, patience=patience)
    return part.read_bytes()


def begin(site: Site, part: Path, behaviour: Behaviour | None = None) -> None:
    """Fetch the first KEPT bytes in a call of its own, which fails."""
    site.planned["/a.zip"] = [behaviour or breaks_off(KEPT)]
    with pytest.raises(DownloadError, match="run the same command again"):
        get(site, part, patience=NEVER)
    assert part.read_bytes() == CONTENT[:KEPT]
    site.requests.clear()


def asked(site: Site) -> list[str | None]:
    return [headers["Range"] for _, headers in site.requests]


def refused(site: Site, part: Path, **options: int | None) -> str:
    with pytest.raises(DownloadError) as caught:
        get(site, part, **options)
    message = str(caught.value)
    assert message.startswith(f"a.zip: {site.url}/a.zip ")
    assert "\n" not in message
    return message


def test_a_whole_file(site: Site, part: Path) -> None:
    assert get(site, part, size=len(CONTENT)) == CONTENT
    assert asked(site) == [None]


def test_a_file_that_breaks_off_is_gone_on_with(site: Site, part: Path) -> None:
    site.planned["/a.zip"] = [breaks_off(KEPT), breaks_off(1), breaks_off(0)]
    assert get(site, part) == CONTENT
    assert asked(site) == [None, f"bytes={KEPT}-", f"bytes={KEPT + 1}-", f"bytes={KEPT + 1}-"]


def test_a_later_call_goes_on(site: Site, part: Path) -> None:
    begin(site, part)
    assert get(site, part) == CONTENT
    [(_, headers)] = site.requests
    assert headers["Range"] == f"bytes={KEPT}-"
    assert headers["If-Range"].startswith('"')


def test_what_is_whole_already_is_not_asked_for(site: Site, part: Path) -> None:
    get(site, part)
    site.requests.clear()
    assert get(site, part) == CONTENT
    assert site.requests == []


@pytest.mark.parametrize("behaviour", [ignores_range, says(416), says(503), says(429)])
def test_a_server_without_the_rest(behaviour: Behaviour, site: Site, part: Path) -> None:
    begin(site, part)
    site.planned["/a.zip"] = [behaviour]
    assert get(site, part) == CONTENT


@pytest.mark.parametrize("behaviour", [None, ignores_if_range])
def test_a_file_that_changed_is_fetched_anew(behaviour: Behaviour | None, site: Site, part: Path) -> None:
    begin(site, part)
    site.files["/a.zip"] = OTHER
    site.planned["/a.zip"] = [behaviour] if behaviour else []
    assert get(site, part) == OTHER


def test_a_file_that_changed_its_date_alone_is_fetched_anew(site: Site, part: Path) -> None:
    def older(request: Handler) -> None:
        request.answer(200, CONTENT[:KEPT], length=len(CONTENT), Last_Modified="Tue, 30 Jun 2026 10:00:00 GMT", ETag="")

    begin(site, part, older)
    site.files["/a.zip"] = OTHER
    site.planned["/a.zip"] = [lambda request: request.partial(OTHER[KEPT:], ETag="")]
    assert get(site, part) == OTHER


@pytest.mark.parametrize(
    "lie",
    [
        lambda request: request.partial(CONTENT[KEPT:], total=len(CONTENT) + 5),
        lambda request: request.partial(CONTENT[KEPT - 9 :], start=KEPT - 9),
        lambda request: request.partial(CONTENT[KEPT:], start=0),
        lambda request: request.answer(206, CONTENT[KEPT:], Content_Range="bytes nonsense"),
        lambda request: request.answer(206, CONTENT[KEPT:]),
    ],
    ids=["total", "earlier", "start", "nonsense", "no range"],
)
def test_a_rest_that_does_not_fit_is_not_taken(lie: Behaviour, site: Site, part: Path) -> None:
    begin(site, part)
    site.planned["/a.zip"] = [lie]
    assert get(site, part) == CONTENT


def test_without_any_sign_of_its_version_a_file_starts_over(site: Site, part: Path) -> None:
    nameless = {"length": len(CONTENT), "ETag": "", "Last_Modified": ""}
    begin(site, part, lambda request: request.answer(200, CONTENT[:KEPT], **nameless))
    assert get(site, part) == CONTENT
    assert asked(site) == [None]


def test_a_weak_etag_is_no_condition(site: Site, part: Path) -> None:
    begin(site, part, lambda request: request.answer(200, CONTENT[:KEPT], length=len(CONTENT), ETag='W/"1"'))
    site.planned["/a.zip"] = [lambda request: request.partial(CONTENT[KEPT:], ETag='W/"1"')]
    assert get(site, part) == CONTENT
    [(_, headers)] = site.requests
    assert headers["If-Range"] == MODIFIED


@pytest.mark.parametrize("note", ["", "{}", "[]", '{"url": 1}', "\x00"])
def test_a_part_whose_note_is_damaged_starts_over(note: str, site: Site, part: Path) -> None:
    begin(site, part)
    part.with_name("a.zip.part.json").write_text(note, encoding="utf-8")
    assert get(site, part) == CONTENT
    assert asked(site) == [None]


def test_a_part_of_another_address_starts_over(site: Site, part: Path) -> None:
    begin(site, part)
    site.files["/b.zip"] = OTHER
    fetch(f"{site.url}/b.zip", part, size_bytes=None, most_bytes=2_000_000, patience=AT_ONCE)
    assert part.read_bytes() == OTHER
    assert asked(site) == [None]


def test_a_server_that_promises_more_than_it_has(site: Site, part: Path) -> None:
    site.planned["/a.zip"] = [lambda request: request.answer(200, CONTENT, length=len(CONTENT) + 7)] * 99
    assert "breaks off after 1,000,000 of 1,000,007 bytes" in refused(site, part)
    assert len(site.requests) == 4


def test_a_file_of_another_size_than_published_is_not_begun(site: Site, part: Path) -> None:
    message = refused(site, part, size=len(CONTENT) - 1)
    assert "has 1,000,000 bytes, the published file has 999,999; it is not the published file" in message
    assert not part.exists()


def test_a_file_beyond_the_limit_is_not_begun(site: Site, part: Path) -> None:
    assert "more than the 999,999 that are allowed" in refused(site, part, most=len(CONTENT) - 1)
    assert not part.exists()


def test_a_file_beyond_the_disk_is_not_begun(site: Site, part: Path) -> None:
    site.planned["/a.zip"] = [lambda request: request.answer(200, b"", length=10**17)]
    message = refused(site, part, most=10**18)
    assert "100000000.0 GB to come" in message
    assert "free some, or name a folder on another disk" in message


def test_an_endless_file_is_given_up(site: Site, part: Path) -> None:
    def endless(request: Handler) -> None:
        request.answer(200, b"", Content_Length="", Transfer_Encoding="chunked")
        while True:
            request.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")

    site.planned["/a.zip"] = [endless]
    assert "gives more than the 2,000,000 bytes that it may have" in refused(site, part)
    assert not part.exists()


def test_chunks_that_break_off_are_no_whole_file(site: Site, part: Path) -> None:
    def chunks(request: Handler) -> None:
        request.answer(200, b"10000\r\n" + CONTENT[:0x10000] + b"\r\n", Content_Length="", Transfer_Encoding="chunked")

    site.planned["/a.zip"] = [chunks]
    assert get(site, part) == CONTENT
    assert len(site.requests) == 2


def test_a_silent_server_is_asked_again(site: Site, part: Path) -> None:
    heard = threading.Event()

    def stalls(request: Handler) -> None:
        request.answer(200, CONTENT[:KEPT], length=len(CONTENT))
        heard.wait(60)

    site.planned["/a.zip"] = [stalls]
    assert get(site, part, patience=Patience(timeout_s=0.3, pauses_s=(0.0,) * 30)) == CONTENT
    heard.set()
    assert asked(site)[1] == f"bytes={KEPT}-"


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (403, "Forbidden"), (401, "Unauthorized")])
def test_a_refusal_is_final(status: int, reason: str, site: Site, part: Path) -> None:
    site.planned["/a.zip"] = [says(status)]
    message = refused(site, part)
    assert f"answers {status} {reason}; try later, put the file into {part.parent} by hand" in message
    assert len(site.requests) == 1


def test_a_web_page_is_not_the_file(site: Site, part: Path) -> None:
    site.planned["/a.zip"] = [says(200, b"<html>Log in", Content_Type="text/html; charset=utf-8")]
    assert "gives a web page" in refused(site, part)
    assert not part.exists()


def test_a_server_that_never_finishes(site: Site, part: Path) -> None:
    site.planned["/a.zip"] = [breaks_off(KEPT), *[breaks_off(0)] * 9]
    message = refused(site, part)
    assert "breaks off after 300,000 of 1,000,000 bytes; 300.0 kB of it are kept; run the same command again" in message
    assert len(site.requests) == 4


def test_a_file_that_is_another_one_each_time_is_given_up(site: Site, part: Path) -> None:
    tags = iter(f'"{number}"' for number in range(99))

    def changes(request: Handler) -> None:
        request.answer(200, CONTENT[:KEPT], length=len(CONTENT), ETag=next(tags))

    site.planned["/a.zip"] = [changes] * 99
    refused(site, part)
    assert len(site.requests) == 4


def test_redirects_are_followed_to_web_addresses_only(site: Site, part: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    site.files["/moved.zip"] = CONTENT
    site.planned["/a.zip"] = [says(302, Location=f"{site.url}/moved.zip")]
    assert get(site, part) == CONTENT
    part.unlink()
    for place in (secret.as_uri(), "ftp://127.0.0.1/a.zip", "data:text/plain,hello", f"{site.url}/a.zip"):
        site.planned["/a.zip"] = [says(302, Location=place)] * 20
        assert "answers 302 " in refused(site, part)
        assert not part.exists()


def test_https_stays_https() -> None:
    request = urllib.request.Request("https://example.org/a.zip")
    handler = web._Redirects()
    with pytest.raises(urllib.error.HTTPError, match="redirect to http://example.org/b.zip, which is refused"):
        handler.redirect_request(request, None, 302, "Found", HTTPMessage(), "http://example.org/b.zip")
    followed = handler.redirect_request(request, None, 302, "Found", HTTPMessage(), "https://example.org/b.zip")
    assert followed is not None
    assert followed.full_url == "https://example.org/b.zip"


def test_nobody_there_is_said_at_once(part: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.zip"
        with pytest.raises(DownloadError, match="cannot be reached .*check the connection"):
            fetch(url, part, size_bytes=None, most_bytes=9)


def test_what_a_server_says_cannot_write_to_the_terminal(site: Site, part: Path) -> None:
    site.planned["/a.zip"] = [lambda request: request.wfile.write(b"HTTP/1.0 404 \x1b[2J\x07gone\r\n\r\n")]
    assert refused(site, part).isprintable()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_an_error_of_the_disk(site: Site, part: Path) -> None:
    part.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        get(site, part)


@pytest.mark.parametrize(
    "url", ["http://a..b/a.zip", f"http://{'a' * 64}.example/a.zip", "http://127.0.0.1:9/dätå.zip"]
)
def test_addresses_that_cannot_be_asked(url: str, part: Path) -> None:
    with pytest.raises(DownloadError, match="is or leads to no address that can be asked") as caught:
        fetch(url, part, size_bytes=None, most_bytes=1000, patience=AT_ONCE)
    assert str(caught.value).startswith(f"a.zip: {url} ")


@pytest.mark.parametrize("target", ["http://[", "http://a..b/", "http://127.0.0.1:port/"])
def test_redirects_to_no_address(target: str, site: Site, part: Path) -> None:
    site.planned["/a.zip"] = [says(302, Location=target)]
    assert "is or leads to no address that can be asked" in refused(site, part)
    assert len(site.requests) == 1  # another try would be no cure


@pytest.mark.parametrize(
    ("base_url", "problem"),
    [
        ("https://mirror.example/data", None),
        ("http://127.0.0.1:8000", None),
        ("ftp://mirror.example", "must begin with https://"),
        ("file:///etc", "must begin with https://"),
        ("mirror.example/data", "must begin with https://"),
        ("https://", "must begin with https://"),
        ("https://me:secret@mirror.example", "must not hold a user name or password"),
        ("https://mirror.example/?a=b", "must be a folder's address"),
        ("https://mirror.example/a b", "must be a folder's address"),
        ("https://mirror.example:port", "is no address"),
        ("https://[::1", "is no address"),
        ("https://[::1]:8000/data", None),
        ("https://a..b/data", "is no address"),
        (f"https://{'a' * 64}.example/data", "is no address"),
        ("https://mirror.example/dätå", "must be plain ASCII"),
        ("https://mirrör.example/data", "must be plain ASCII"),
    ],
)
def test_addresses_of_mirrors(base_url: str, problem: str | None) -> None:
    found = web.problem_with(base_url)
    assert found == problem or (problem and found and found.startswith(problem))
