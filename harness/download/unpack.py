"""An archive's members into their places: each is written beside its place, then moved there once it is whole."""

from __future__ import annotations

import errno
import lzma
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from harness.download import DownloadError
from harness.download.members import Member, Refused, opened, plan
from harness.download.sources import Unpack
from harness.progress import progress, size_text

_CHUNK_BYTES = 1 << 20
_TEMPORARY = ".unpacking"
# All that zipfile and tarfile raise on bytes that are no archive, beside OSErrors without a number.
_BROKEN = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
    *(EOFError, RuntimeError, ValueError, LookupError, OverflowError, AssertionError, struct.error),
)


class DamagedArchive(DownloadError):
    """An archive whose bytes are not what they should be; another copy may do."""


@dataclass(frozen=True)
class Landed:
    """How many files lie in a place, and their bytes together."""

    files: int
    bytes: int


def unpack(archive: Path, root: Path, rule: Unpack) -> Landed:
    """Put the members that `rule` takes below `root`, over files of the same names.

    Nothing is written before every member is known to be harmless.

    Raises:
        DamagedArchive: not an archive, cut off, or a member that fails its checksum.
        DownloadError: an archive that `members.plan` refuses, or not enough space.
        OSError: a file cannot be written.
    """
    try:
        with opened(archive) as members:
            places = plan(members, rule)
            _check_space(archive, root, sum(member.size_bytes for member in places.values()))
            shown = progress(places.items(), total=len(places), label=f"unpacking {archive.name}", units="files")
            written = sum(_write(member, root / place) for place, member in shown)
    except Refused as error:
        fix = "it is not the official archive, or not a harmless one: get another"
        raise DownloadError(f"{archive}: {error}; {fix}") from None
    except DownloadError:
        raise
    except (*_BROKEN, OSError) as error:
        # A place before the archive's beginning is no fault of the disk.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise DamagedArchive(f"{archive}: cannot be unpacked ({_said(error)})") from None
    return Landed(len(places), written)


def measure(place: Path) -> Landed:
    """What lies in a folder and those below it, or the one file; nothing where there is neither."""
    if place.is_file():
        return Landed(1, place.stat().st_size)
    sizes = [
        (Path(folder) / name).stat().st_size
        for folder, _, names in os.walk(place)
        for name in names
        if name != _TEMPORARY
    ]
    return Landed(len(sizes), sum(sizes))


def _check_space(archive: Path, root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if needed > free:
        fix = "free some, or name a folder on another disk"
        raise DownloadError(f"{archive}: unpacks to {size_text(needed)}, {root} has {size_text(free)} left; {fix}")


def _write(member: Member, target: Path) -> int:
    """Write one file; returns its bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(_TEMPORARY)
    try:
        with member.open() as source, temporary.open("wb") as copy:
            written = 0
            # The last, empty read is where zipfile compares the checksum.
            while chunk := source.read(_CHUNK_BYTES):
                written += len(chunk)
                if written > member.size_bytes:
                    break
                copy.write(chunk)
        if written != member.size_bytes:
            raise Refused(f"{member.name!r} does not have the {member.size_bytes:,} bytes that it says")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return written


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
