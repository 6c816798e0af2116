"""download.json: what was fetched into a folder, from where, and its hashes; later runs tell by it what is whole."""

from __future__ import annotations

import hashlib
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from harness.download import DownloadError
from harness.download.unpack import Landed, measure
from harness.progress import byte_progress
from tasks.io.files import is_bare

NAME: Final = "download.json"
_CHUNK_BYTES = 1 << 20


def _bare(name: str) -> str:
    if not is_bare(name):
        raise ValueError("must be the name of a file of this folder")
    return name


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Unpacked(_Model):
    """What an archive became: `to` is a path below the data folder."""

    to: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*$")
    files: int = Field(ge=0)
    bytes: int = Field(ge=0)

    def whole(self, root: Path) -> bool:
        """Whether as much lies there still."""
        found = measure(root / self.to)
        return found.files >= self.files and found.bytes >= self.bytes


class Fetched(_Model):
    """One file as it was fetched.

    Attributes:
        url: where from; None for one that was put there by hand.
        bytes, sha256: of the file.
        published: the published checksum that it agreed with, None where there is none.
        time: when, in UTC.
        unpacked: set for an archive.
    """

    url: str | None
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    published: str | None
    time: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    unpacked: Unpacked | None = None

    def with_unpacked(self, to: str, landed: Landed) -> Fetched:
        """The same, once it is unpacked."""
        return self.model_copy(update={"unpacked": Unpacked(to=to, files=landed.files, bytes=landed.bytes)})


class DownloadRecord(_Model):
    """All of download.json."""

    version: Literal[1] = 1
    data_set: str
    files: dict[Annotated[str, AfterValidator(_bare)], Fetched] = Field(default_factory=dict)

    def with_file(self, name: str, fetched: Fetched) -> DownloadRecord:
        """The same with one file more."""
        return self.model_copy(update={"files": {**self.files, name: fetched}})

    def without(self, name: str) -> DownloadRecord:
        """The same with one file less."""
        return self.model_copy(update={"files": {key: file for key, file in self.files.items() if key != name}})


def read(root: Path) -> DownloadRecord | None:
    """The record of a folder, None where nothing was downloaded into it.

    Raises:
        DownloadError: it is no such record.
        OSError: it cannot be read.
    """
    path = root / NAME
    try:
        return DownloadRecord.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        what = error.errors()[0]
        place = ".".join(map(str, what["loc"])) or "the file"
        raise DownloadError(f"{path}: {place}: {what['msg']}; delete it, and download again") from None


def write(root: Path, record: DownloadRecord) -> None:
    """Write the record at once or not at all.

    Raises:
        OSError: it cannot be written.
    """
    temporary = root / f".{NAME}.{secrets.token_hex(4)}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(record.model_dump_json(indent=2).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(root / NAME)
    finally:
        temporary.unlink(missing_ok=True)


def digests(path: Path, *more: str) -> dict[str, str]:
    """A file's sha256, and by the same reading those of other algorithms, as hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    found = {name: hashlib.new(name, usedforsecurity=False) for name in ("sha256", *more)}
    with (
        path.open("rb") as file,
        byte_progress(total=path.stat().st_size, done=0, label=f"checking {path.name}") as advance,
    ):
        while chunk := file.read(_CHUNK_BYTES):
            for digest in found.values():
                digest.update(chunk)
            advance(len(chunk))
    return {name: digest.hexdigest() for name, digest in found.items()}
