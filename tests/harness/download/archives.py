"""Archives of every kind of malice, and good ones."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path


def zipped(members: Mapping[str, bytes]) -> bytes:
    """A zip of these files; names are written as they are."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(named(name), content)
    return file.getvalue()


def named(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x")
    info.filename = info.orig_filename = name
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def zipped_twice(name: str) -> bytes:
    """A zip that has this name twice, which zipfile itself only writes with a warning."""
    other = "x" * len(name)
    return zipped({name: b"x", other: b"y"}).replace(other.encode(), name.encode())


def zipped_special(name: str, kind: int, content: bytes = b"/etc/passwd") -> bytes:
    """A zip with one harmless file and one member that says it is of a special kind, such as stat.S_IFLNK."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(named("train/1/image.png"), b"x")
        archive.writestr(named(name, kind | 0o644), content)
    return file.getvalue()


def zipped_encrypted(name: str) -> bytes:
    """A zip whose one member claims to be encrypted."""
    content = bytearray(zipped({name: b"x"}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    return bytes(content)


def zipped_lying(name: str, content: bytes, *, claimed: int) -> bytes:
    """A zip whose one member claims another size than it has."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(named(name), content)
        archive.filelist[0].file_size = claimed  # the directory at the end is written from this
    return file.getvalue()


def tarred(*members: tarfile.TarInfo | tuple[str, bytes], mode: str = "w:gz") -> bytes:
    """A tar of files, given as name and content, and of anything else."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for member in members:
            if isinstance(member, tuple):
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
            else:
                archive.addfile(member)
    return file.getvalue()


def tar_special(name: str, kind: bytes, *, to: str = "") -> tarfile.TarInfo:
    """A member that is no file: a link `to` something, a device, a pipe."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def files_below(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, by its path there; links are not followed."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
