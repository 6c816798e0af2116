"""What comes from elsewhere: archives, and the notes that a download leaves for its next try."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from harness.download import DownloadError, check, record
from harness.download.fetch import _ask_for_rest, _beside, _Fetch
from harness.download.sources import DATA_SETS, Unpack
from harness.download.unpack import unpack
from tasks import DataError
from tests.fuzz.mutations import NAMES, bad_json, damaged
from tests.fuzz.refusals import cases, fuzz
from tests.harness.download.archives import files_below, tarred, zipped, zipped_lying

RULE = Unpack(member="train/", to="images/train", most_files=10, most_bytes=10**9)
FILES = {"train/1/image.png": b"one" * 50, "train/2/image.png": b"two!" * 50}
MEMBERS = tuple(FILES.items())
ARCHIVES = {
    "zip": zipped(FILES),
    **{mode: tarred(*MEMBERS, mode=mode) for mode in ("w", "w:gz", "w:bz2", "w:xz")},
}


def unpacker(folder: Path) -> Callable[[bytes], None]:
    """Unpacks into an empty folder; on an error nothing may be left that looks whole."""

    def read(content: bytes) -> None:
        archive, root = folder / "an archive", folder / "data"
        archive.write_bytes(content)
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        unpack(archive, root, RULE)
        assert all(name.startswith("images/train/") for name in files_below(root))

    return read


@pytest.mark.parametrize("kind", ARCHIVES)
def test_damaged_archives(kind: str, folder: Path) -> None:
    good, errors = ARCHIVES[kind], (DownloadError,)
    found = fuzz(unpacker(folder), damaged(good), good=good, folder=folder, errors=errors, count=cases(60))
    assert found.mostly_refused


def test_hostile_members(folder: Path) -> None:
    names = st.one_of(st.sampled_from(NAMES), st.sampled_from(NAMES).map(lambda name: f"train/{name}"))
    usable = names.filter(lambda name: "\udcff" not in name)
    kinds = st.sampled_from([zipped, lambda files: tarred(*files.items())])
    inputs = st.builds(
        lambda name, make, first: make({name: b"x", first: b"y"}), usable, kinds, st.sampled_from([*FILES])
    )
    good, errors = ARCHIVES["w"], (DownloadError,)
    assert fuzz(unpacker(folder), inputs, good=good, folder=folder, errors=errors, count=40).mostly_refused


def test_huge_members(folder: Path) -> None:
    claims = st.integers(10**6, 2**32 - 2).map(lambda size: zipped_lying("train/1.png", b"x", claimed=size))
    good, errors = zipped({"train/1.png": b"x"}), (DownloadError,)
    assert not fuzz(unpacker(folder), claims, good=good, folder=folder, errors=errors, count=50).read


def test_notes_in_a_tar_that_unpack_to_gigabytes(folder: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as archive:
        for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
            note = tarfile.TarInfo("note")
            note.type, note.size = kind, 600_000_000
            archive.addfile(note, _Zeros(note.size))
    inputs, errors = st.just(file.getvalue()), (DownloadError,)
    assert not fuzz(unpacker(folder), inputs, good=ARCHIVES["w:gz"], folder=folder, errors=errors, count=1).read


class _Zeros(io.RawIOBase):
    """So many bytes of nothing."""

    def __init__(self, size: int) -> None:
        self.left = size

    def read(self, size: int = -1) -> bytes:
        size = min(size, self.left)
        self.left -= size
        return bytes(size)


def test_download_records(folder: Path) -> None:
    """`data check` holds a folder against its download.json."""
    fetched: dict[str, Any] = {
        "url": None,
        "bytes": 0,
        "sha256": hashlib.sha256().hexdigest(),
        "published": None,
        "time": "2026",
    }
    files = {}
    for source in DATA_SETS["scienceqa"].sources:
        unpacked = source.unpack and {"to": source.unpack.to, "files": 0, "bytes": 0}
        files[source.name] = fetched | {"unpacked": unpacked}
        place = folder / (source.unpack.to if source.unpack else source.name)
        if source.unpack:
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.touch()
    good = {"version": 1, "data_set": "scienceqa", "files": files}

    def read(content: bytes) -> None:
        (folder / record.NAME).write_bytes(content)
        check.verify("scienceqa", folder)

    written = json.dumps(good).encode()
    assert fuzz(read, bad_json(good), good=written, folder=folder, errors=(DataError,)).mostly_refused


@pytest.mark.parametrize("name", ["/dev/zero", "../../x", "", ".."])
def test_a_download_record_names_files_of_its_folder(name: str, folder: Path) -> None:
    rest = {"url": None, "bytes": 0, "sha256": "0" * 64, "published": None}
    text = json.dumps({"data_set": "scienceqa", "files": {name: rest}})
    (folder / record.NAME).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="must be the name of a file of this folder"):
        check.verify("scienceqa", folder)


def test_notes_on_parts(folder: Path) -> None:
    """A part goes on only where the note beside it is whole; its words go into a request."""
    good = {"url": "http://localhost/a.zip", "etag": '"1"', "modified": None, "size_bytes": 9}
    part = folder / "a.zip.part"
    part.write_bytes(b"some")

    def read(content: bytes) -> None:
        _beside(part).write_bytes(content)
        fetch = _Fetch(str(good["url"]), part, size_bytes=None, most_bytes=100, timeout_s=1.0)
        known = fetch._kept()
        if known is None:
            raise DownloadError(f"{folder}: starts over")
        assert all(isinstance(text, str) and text.isprintable() for text in _ask_for_rest(known, 4).values())

    written = json.dumps(good).encode()
    assert fuzz(read, bad_json(good), good=written, folder=folder, errors=(DownloadError,)).mostly_refused
