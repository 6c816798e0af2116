"""A data folder as `data download` makes it: each file fetched or found, checked, unpacked and written down."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.download import DownloadError, fetch, record
from harness.download.fetch import PATIENCE, Patience
from harness.download.record import DownloadRecord, Fetched
from harness.download.sources import DataSet, OnRequest, Source, Unpack
from harness.download.unpack import DamagedArchive, unpack
from harness.progress import size_text
from harness.settings import UsageError

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What is wanted: a data set in a folder.

    Attributes:
        data_set: which.
        root: the folder; made if it is not there.
        base_url: the address of a mirror that has the files under their names, None for the official addresses.
        archive: pictures that came on request, for a data set that has such.
        say: told of each file.
        patience: with the servers.
    """

    data_set: DataSet
    root: Path
    base_url: str | None
    archive: Path | None
    say: Say
    patience: Patience = PATIENCE

    def url(self, source: Source) -> str:
        """Where a file is taken from."""
        return source.url if self.base_url is None else f"{self.base_url.rstrip('/')}/{source.name}"


def download(request: Request) -> None:
    """Make the folder whole as far as that can be done from here; what is there already is checked and kept.

    Raises:
        UsageError: a folder of something else, or one that cannot be made.
        DownloadError: a file that cannot be had, is not the published one, or cannot be written.
    """
    _prepare(request)
    try:
        for source in request.data_set.sources:
            _obtain(request, source)
        if request.archive is not None and request.data_set.on_request is not None:
            _take_in(request, request.archive, request.data_set.on_request)
    except BrokenPipeError:  # whoever read what is said has gone
        raise
    except OSError as error:
        where = error.filename or request.root
        fix = "free space or change its permissions, then run the same command again, which goes on from there"
        raise DownloadError(f"{where}: {error.strerror or error}; {fix}") from None


def is_whole(root: Path, name: str, fetched: Fetched) -> bool:
    """Whether a file that was fetched is there still as it was; of an archive, what it became.

    Raises:
        DownloadError: it is there, but has changed.
        OSError: it cannot be read.
    """
    if fetched.unpacked is not None:
        return fetched.unpacked.whole(root)
    path = root / name
    if not path.exists():
        return False
    if path.stat().st_size != fetched.bytes or record.digests(path)["sha256"] != fetched.sha256:
        fix = f"delete it to fetch it again, or delete {record.NAME} to keep your own"
        raise DownloadError(f"{path}: has changed since it was downloaded; {fix}")
    return True


def _prepare(request: Request) -> None:
    """Make the folder, with a record that says whose it is."""
    root, name = request.root, request.data_set.name
    try:
        root.mkdir(parents=True, exist_ok=True)
        known = record.read(root)
        if known is None:
            record.write(root, DownloadRecord(data_set=name))
    except OSError as error:
        raise UsageError(f"--data-root {root}: cannot be made or written ({error.strerror}); name another") from None
    if known is not None and known.data_set != name:
        raise UsageError(f"--data-root {root}: holds {known.data_set} already; name a folder of its own for {name}")


def _known(request: Request) -> DownloadRecord:
    return record.read(request.root) or DownloadRecord(data_set=request.data_set.name)


def _obtain(request: Request, source: Source) -> None:
    """Fetch one file unless it is there, check it, and unpack it if it is an archive."""
    root, target = request.root, request.root / source.name
    fetched = _known(request).files.get(source.name)
    unpacked = source.unpack is None or (fetched is not None and fetched.unpacked is not None)
    if fetched is not None and unpacked and is_whole(root, source.name, fetched):
        request.say(f"{source.name}: is there already")
        return
    if target.exists():
        # Put there by hand, or fetched by a run that ended before it was unpacked.
        checked = _checked(source, target, fix="delete it, then run the same command again")
        url = fetched.url if fetched is not None and fetched.sha256 == checked.sha256 else None
        fetched = checked.model_copy(update={"url": url})
    else:
        fetched = _fetch(request, source)
    record.write(root, _known(request).with_file(source.name, fetched))
    request.say(f"{source.name}: {size_text(fetched.bytes)}, sha256 {fetched.sha256}")
    if source.unpack is not None:
        _unpack(request, source, source.unpack, fetched)


def _fetch(request: Request, source: Source) -> Fetched:
    target, url = request.root / source.name, request.url(source)
    part = target.with_name(f"{target.name}.part")
    request.say(f"{source.name}: from {url}")
    fetch.fetch(url, part, size_bytes=source.size_bytes, most_bytes=source.most_bytes, patience=request.patience)
    try:
        fetched = _checked(source, part, fix="run the same command again, or name another address with --base-url")
    except DownloadError:
        fetch.discard(part)  # it is whole and wrong: going on from it would never help
        raise
    fetch.finish(part, target)
    return fetched.model_copy(update={"url": url})


def _checked(source: Source, path: Path, *, fix: str) -> Fetched:
    """Hold a whole file against what is published of it.

    Raises:
        DownloadError: another size or checksum, more bytes than are taken, or no JSON where that is expected.
    """
    size = path.stat().st_size
    if source.size_bytes not in (None, size):
        raise DownloadError(f"{path}: has {size:,} bytes, the published file has {source.size_bytes:,}; {fix}")
    if source.size_bytes is None and size > source.most_bytes:
        raise DownloadError(f"{path}: has {size:,} bytes, more than the {source.most_bytes:,} that are taken; {fix}")
    kind, _, published = (source.digest or "").partition(":")
    found = record.digests(path, *([kind] if kind else []))
    if kind and found[kind] != published:
        raise DownloadError(f"{path}: its {kind} is {found[kind]}, that of the published file {published}; {fix}")
    if source.name.endswith(".json"):
        try:
            json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise DownloadError(f"{path}: is no JSON ({error}) and may be cut off; {fix}") from None
    return Fetched(url=None, bytes=size, sha256=found["sha256"], published=source.digest)


def _unpack(request: Request, source: Source, rule: Unpack, fetched: Fetched) -> None:
    """Unpack an archive, write that down, and delete it if it was fetched by us."""
    root, target = request.root, request.root / source.name
    try:
        landed = unpack(target, root, rule)
    except DamagedArchive as error:
        if fetched.url is None:
            raise DownloadError(f"{error}; delete it, then run the same command again") from None
        target.unlink()
        record.write(root, _known(request).without(source.name))
        raise DownloadError(f"{error}; it came from {fetched.url}: run the same command to fetch it again") from None
    record.write(root, _known(request).with_file(source.name, fetched.with_unpacked(rule.to, landed)))
    if fetched.url is not None:
        target.unlink()
    request.say(f"{source.name}: {landed.files:,} files, {size_text(landed.bytes)}, into {root / rule.to}")


def _take_in(request: Request, archive: Path, on_request: OnRequest) -> None:
    """Unpack pictures that came on request; their archive stays where it is."""
    root, rule = request.root, on_request.unpack
    try:
        landed = unpack(archive, root, rule)
    except DamagedArchive as error:
        raise DownloadError(f"{error}; get {on_request.archive} again from where you were told") from None
    sha256 = record.digests(archive)["sha256"]
    fetched = Fetched(url=None, bytes=archive.stat().st_size, sha256=sha256, published=None)
    fetched = fetched.with_unpacked(rule.to, landed)
    record.write(root, _known(request).with_file(on_request.archive, fetched))
    request.say(f"{archive.name}: {landed.files:,} files, {size_text(landed.bytes)}, into {root / rule.to}")
