"""What an archive says that it holds, and the refusal of all that could land elsewhere or be more than it seems.

zipfile and tarfile read the archives; here stand the rules on top, which are stricter than tarfile's filter `data`: no
links at all, and one member that breaks a rule refuses the archive. Of a member only its bytes reach the disk: no mode,
owner or time.
"""

from __future__ import annotations

import contextlib
import stat
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from harness.download.sources import Unpack

_LONGEST_BYTES = 255
_LONGEST_NOTE_BYTES = 1 << 20
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFIFO: "pipe",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    0: "file",  # what a zip from a system without such bits says
}


class Refused(ValueError):
    """An archive that is not unpacked; says which member and why."""


@dataclass(frozen=True)
class Member:
    """One entry: `kind` is file, folder, or what else it is; `open` gives the bytes of a file."""

    name: str
    size_bytes: int
    kind: str
    open: Callable[[], IO[bytes]]


@contextlib.contextmanager
def opened(archive: Path) -> Iterator[Iterable[Member]]:
    """The members of a zip or (compressed) tar archive, readable while it is open.

    Raises:
        zipfile.BadZipFile, tarfile.TarError, and others that these two raise on broken archives.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            yield [_of_zip(packed, info) for info in packed.infolist()]
    else:
        with tarfile.open(archive, tarinfo=_TarInfo) as taped:
            yield (_of_tar(taped, info) for info in taped)


class _TarInfo(tarfile.TarInfo):
    """Long names and other notes before a member are read at once; packed, gigabytes of them are a small archive."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        notes = not (self.isreg() or self.isdir() or self.issym() or self.islnk() or self.isdev())
        if notes and self.size > _LONGEST_NOTE_BYTES:
            raise tarfile.ReadError(f"a note of {self.size:,} bytes before a member")
        return super()._proc_member(tar)  # type: ignore[misc, no-any-return]


def _of_zip(packed: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    folder = info.orig_filename.endswith("/")
    kind = "folder" if folder else _KINDS.get(stat.S_IFMT(info.external_attr >> 16), "special file")
    if info.flag_bits & 1:
        kind = "file under a password"
    # zipfile cuts names at a NUL; the rules are for the name as it stands there.
    return Member(info.orig_filename, info.file_size, kind, partial(packed.open, info))


def _of_tar(taped: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    kind = "file" if info.isreg() else "folder" if info.isdir() else "hard link" if info.islnk() else "special file"
    if info.issym():
        kind = "symbolic link"
    if info.ischr() or info.isblk():
        kind = "device"

    def read() -> IO[bytes]:
        source = taped.extractfile(info)
        if source is None:
            raise tarfile.ReadError(f"{info.name!r} has no bytes")
        return source

    return Member(info.name, info.size, kind, read)


def plan(members: Iterable[Member], rule: Unpack) -> dict[str, Member]:
    """The members to take, by the place below the data folder where each goes.

    Raises:
        Refused: too many members or bytes in all; a link, a device or a file under a password; a name that is absolute,
            climbs up, or does not work on every system; two files of one name, with capitals and accents told apart or
            not; or nothing to take.
    """
    names, targets = _Names(), _Names()
    taken: dict[str, Member] = {}
    count = total = 0
    for member in members:
        count, total = count + 1, total + member.size_bytes
        if count > rule.most_files or total > rule.most_bytes:
            limits = f"{rule.most_files:,} members or {rule.most_bytes:,} bytes"
            raise Refused(f"it holds more than the {limits} that are allowed")
        parts = _parts(member.name)
        if member.kind == "folder":
            continue
        if member.kind != "file":
            raise Refused(f"{_shown(member.name)} is a {member.kind}")
        if not parts:
            raise Refused(f"{_shown(member.name)} is a file without a name")
        names.add(parts, member.name)
        if target := _target(parts, rule):
            targets.add(target, member.name)
            taken["/".join(target)] = member
    if not taken:
        raise Refused(f"it holds no {rule.member}*{rule.suffix}")
    return taken


def _parts(name: str) -> tuple[str, ...]:
    """A name's parts, once it is one that stays below its folder on every system."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts:
        raise Refused(f"{_shown(name)} leads out of the folder")
    # Cc, Cf and Cs among them: control characters, changes of direction, halves of surrogate pairs.
    if any(unicodedata.category(c).startswith("C") or c in "\\:" for c in name):
        raise Refused(f"{_shown(name)} has a character that no file name should have")
    if any(len(part.encode()) > _LONGEST_BYTES for part in parts):
        raise Refused(f"{_shown(name)[:80]}... is too long")
    return parts


def _target(parts: tuple[str, ...], rule: Unpack) -> tuple[str, ...] | None:
    """Where a file goes, None for one that is left out, as macOS's and other hidden files are."""
    name = "/".join(parts)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    if hidden or not name.startswith(rule.member) or not name.lower().endswith(rule.suffix):
        return None
    rest = parts[-1] if rule.flat else name.removeprefix(rule.member)
    return PurePosixPath(rule.to, rest).parts


class _Names:
    """The names of files so far; a name stands for its folders too."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, ...], str] = {}
        self._folders: set[tuple[str, ...]] = set()

    def add(self, parts: tuple[str, ...], name: str) -> None:
        """Take one more.

        Raises:
            Refused: it is taken, or one of the two would be the folder of the other.
        """
        key = tuple(unicodedata.normalize("NFC", part).casefold() for part in parts)
        above = [key[:length] for length in range(1, len(key))]
        if key in self._folders or any(folder in self._files for folder in (*above, key)):
            raise Refused(f"{_shown(name)} is there twice, or as file and folder, in small or capital letters")
        self._files[key] = name
        self._folders.update(above)


def _shown(name: str) -> str:
    return repr(name.encode("utf-8", "backslashreplace").decode())
