"""A data folder from the first byte to the last: fetched, gone on with, checked, kept, and refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
from pathlib import Path

import pytest

from harness.download import DownloadError, check, record
from harness.download.fetch import Patience
from harness.download.folder import Request, download
from harness.download.sources import DATA_SETS, DataSet, OnRequest, Source, Unpack
from harness.settings import UsageError
from tests.harness.download.archives import files_below, tarred, zipped
from tests.harness.download.server import Site, breaks_off, says

WORDS = json.dumps({"words": "x" * 1000}).encode()
PICTURES = zipped({f"train/{number}.png": random.Random(number).randbytes(1000) for number in range(20)})
UNPACK = Unpack(member="train/", to="images/train", most_bytes=10**6)


@pytest.fixture
def data_set(site: Site) -> DataSet:
    """A plain file without a published checksum, and an archive with one."""
    site.files |= {"/a/words.json": WORDS, "/a/train.zip": PICTURES}
    return DataSet(
        name="toy",
        tasks=("scienceqa",),
        terms="none",
        sources=(
            Source(url=f"{site.url}/a/words.json"),
            Source(
                url=f"{site.url}/a/train.zip",
                size_bytes=len(PICTURES),
                digest=f"md5:{hashlib.md5(PICTURES).hexdigest()}",
                unpack=UNPACK,
            ),
        ),
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "my data" / "toy"


def run(data_set: DataSet, root: Path, *, base_url: str | None = None, archive: Path | None = None) -> list[str]:
    """Download; returns what was said."""
    said: list[str] = []
    download(Request(data_set, root, base_url, archive, said.append, Patience(timeout_s=5, pauses_s=())))
    return said


def failed(data_set: DataSet, root: Path) -> str:
    with pytest.raises(DownloadError) as caught:
        run(data_set, root)
    return str(caught.value)


def asked(site: Site) -> list[str]:
    paths = [path for path, _ in site.requests]
    site.requests.clear()
    return paths


def test_everything_arrives(data_set: DataSet, root: Path, site: Site) -> None:
    said = run(data_set, root)
    found = files_below(root)
    assert len(found) == 22
    assert found["words.json"] == WORDS
    known = record.read(root)
    assert known is not None
    assert known.data_set == "toy"
    words, train = known.files["words.json"], known.files["train.zip"]
    assert (words.sha256, words.bytes) == (hashlib.sha256(WORDS).hexdigest(), len(WORDS))
    assert (words.url, words.published, words.unpacked) == (f"{site.url}/a/words.json", None, None)
    assert train.published == data_set.sources[1].digest
    assert train.unpacked is not None
    assert train.unpacked.model_dump() == {"to": "images/train", "files": 20, "bytes": 20_000}
    assert said[-1] == f"train.zip: 20 files, 20.0 kB, into {root / 'images/train'}"


def test_what_is_there_is_not_fetched_again(data_set: DataSet, root: Path, site: Site) -> None:
    run(data_set, root)
    before = files_below(root)
    asked(site)
    assert run(data_set, root) == ["words.json: is there already", "train.zip: is there already"]
    assert asked(site) == []
    assert files_below(root) == before


def test_an_interrupted_download_goes_on(data_set: DataSet, root: Path, site: Site) -> None:
    site.planned["/a/train.zip"] = [breaks_off(5000)]
    assert "train.zip: " in failed(data_set, root)
    assert (root / "train.zip.part").stat().st_size == 5000
    assert asked(site) == ["/a/words.json", "/a/train.zip"]
    run(data_set, root)
    [(path, headers)] = site.requests
    assert (path, headers["Range"]) == ("/a/train.zip", "bytes=5000-")
    assert not [name for name in files_below(root) if ".part" in name or name.endswith(".zip")]


def test_lost_files_are_fetched_again(data_set: DataSet, root: Path, site: Site) -> None:
    run(data_set, root)
    before = files_below(root)
    (root / "images/train/3.png").unlink()
    (root / "words.json").unlink()
    asked(site)
    run(data_set, root)
    assert asked(site) == ["/a/words.json", "/a/train.zip"]
    after = files_below(root)
    assert {name: after[name] for name in after if name != record.NAME} == {
        name: before[name] for name in before if name != record.NAME
    }


def test_a_file_that_was_edited_is_left_alone(data_set: DataSet, root: Path) -> None:
    run(data_set, root)
    (root / "words.json").write_text("{}")
    message = failed(data_set, root)
    assert f"{root / 'words.json'}: has changed since it was downloaded; delete it to fetch it again" in message
    assert (root / "words.json").read_text() == "{}"


def test_files_put_there_by_hand_are_taken(data_set: DataSet, root: Path, site: Site) -> None:
    root.mkdir(parents=True)
    (root / "words.json").write_bytes(WORDS)
    (root / "train.zip").write_bytes(PICTURES)
    run(data_set, root)
    assert asked(site) == []
    assert (root / "train.zip").exists()  # it is not ours to delete
    assert len(list((root / "images/train").iterdir())) == 20


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("words.json", b'{"cut off', "is no JSON"),
        ("train.zip", PICTURES[:-1], "the published file has"),
        ("train.zip", bytes(len(PICTURES)), "its md5 is"),
    ],
)
def test_wrong_files_put_there_by_hand_are_refused(
    name: str, content: bytes, said: str, data_set: DataSet, root: Path
) -> None:
    root.mkdir(parents=True)
    (root / name).write_bytes(content)
    message = failed(data_set, root)
    assert str(root / name) in message
    assert said in message
    assert message.endswith("delete it, then run the same command again")
    assert (root / name).read_bytes() == content


@pytest.mark.parametrize(("path", "said"), [("/a/train.zip", "its md5 is"), ("/a/words.json", "is no JSON")])
def test_a_file_that_is_not_the_published_one(path: str, said: str, data_set: DataSet, root: Path, site: Site) -> None:
    site.planned[path] = [says(200, bytes(len(site.files[path])))]
    assert said in failed(data_set, root)
    assert not list(root.glob("*.part*"))
    run(data_set, root)
    assert len(files_below(root)) == 22


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_text_that_is_too_large_is_not_read(data_set: DataSet, root: Path, site: Site, by_hand: bool) -> None:
    text, archive = data_set.sources
    data_set = dataclasses.replace(data_set, sources=(dataclasses.replace(text, most_bytes=500), archive))
    if by_hand:
        root.mkdir(parents=True)
        (root / "words.json").write_bytes(WORDS)
    message = failed(data_set, root)
    assert f"has {len(WORDS):,} bytes, more than the 500 that are " in message
    assert (root / "words.json").exists() == by_hand


def test_official_texts_of_unknown_size_are_limited() -> None:
    texts = [source for known in DATA_SETS.values() for source in known.sources if source.name.endswith(".json")]
    assert texts
    assert all(source.most_bytes == 100_000_000 for source in texts)


def test_a_damaged_archive_is_fetched_again(data_set: DataSet, root: Path, site: Site) -> None:
    words, train = data_set.sources
    unchecked = dataclasses.replace(data_set, sources=(words, dataclasses.replace(train, size_bytes=None, digest=None)))
    site.planned["/a/train.zip"] = [says(200, PICTURES[:-1])]
    assert f"it came from {site.url}/a/train.zip: run the same command to fetch it again" in failed(unchecked, root)
    run(unchecked, root)
    assert len(files_below(root)) == 22


def test_a_hostile_archive_leaves_nothing_behind(data_set: DataSet, root: Path, site: Site) -> None:
    words, train = data_set.sources
    unchecked = dataclasses.replace(data_set, sources=(words, dataclasses.replace(train, size_bytes=None, digest=None)))
    site.files["/a/train.zip"] = zipped({"train/1.png": b"x", "../../evil": b"x"})
    assert "leads out of the folder" in failed(unchecked, root)
    outside = [path for path in root.parents[1].rglob("*") if path.is_file() and root not in path.parents]
    assert outside == []
    assert not (root / "images").exists()


def test_a_mirror_has_the_files_under_their_names(data_set: DataSet, root: Path, site: Site) -> None:
    site.files = {"/my/mirror/words.json": WORDS, "/my/mirror/train.zip": PICTURES}
    run(data_set, root, base_url=f"{site.url}/my/mirror/")
    assert asked(site) == ["/my/mirror/words.json", "/my/mirror/train.zip"]


def test_a_folder_of_another_data_set_is_refused(data_set: DataSet, root: Path) -> None:
    run(data_set, root)
    with pytest.raises(UsageError, match="holds toy already; name a folder of its own for coco"):
        run(DATA_SETS["coco"], root)


def test_a_folder_that_cannot_be_made(data_set: DataSet, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(UsageError, match="cannot be made or written"):
            run(data_set, root)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(data_set: DataSet, root: Path) -> None:
    root.mkdir(parents=True)
    root.chmod(0o500)
    with pytest.raises(UsageError, match="Permission denied"):
        run(data_set, root)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line(data_set: DataSet, root: Path) -> None:
    root.mkdir(parents=True)
    (root / "words.json.part").symlink_to("/dev/full")
    message = failed(data_set, root)
    assert "No space left on device; free space" in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["", "{", "[]", '{"data_set": "toy", "version": 2}', '{"data_set": 1}'])
def test_a_record_that_is_damaged(text: str, data_set: DataSet, root: Path) -> None:
    root.mkdir(parents=True)
    (root / record.NAME).write_text(text)
    message = failed(data_set, root)
    assert message.startswith(f"{root / record.NAME}: ")
    assert message.endswith("delete it, and download again")


def test_pictures_that_came_on_request(site: Site, root: Path, tmp_path: Path) -> None:
    site.files["/splits.json"] = WORDS
    rule = Unpack(member="", to="images", suffix=".jpg", flat=True, most_bytes=10**6)
    asked_for = OnRequest(form="https://forms.example", archive="pictures.tar.gz", unpack=rule)
    data_set = DataSet(
        name="toy",
        tasks=("retrieval",),
        terms="none",
        sources=(Source(url=f"{site.url}/splits.json"),),
        on_request=asked_for,
    )
    archive = tmp_path / "what they sent.tar.gz"
    archive.write_bytes(tarred(("pictures/1.jpg", b"one"), ("pictures/2.jpg", b"two"), ("readme.txt", b"!")))
    run(data_set, root, archive=archive)
    assert {"images/1.jpg", "images/2.jpg", "splits.json"} == files_below(root).keys() - {record.NAME}
    assert archive.exists()
    known = record.read(root)
    assert known is not None
    assert known.files["pictures.tar.gz"].unpacked is not None


def test_official_addresses_are_https_and_names_differ() -> None:
    for data_set in DATA_SETS.values():
        assert all(source.url.startswith("https://") for source in data_set.sources)
        names = [source.name for source in data_set.sources]
        assert len(set(names)) == len(names)
        assert all(source.unpack is not None or source.name.endswith(".json") for source in data_set.sources)
        for source in data_set.sources:
            if source.digest is not None:
                kind, _, digits = source.digest.partition(":")
                assert len(digits) == 2 * hashlib.new(kind).digest_size
            if source.unpack is not None and source.size_bytes is not None:
                assert source.size_bytes < source.unpack.most_bytes


def test_the_end_says_what_is_missing(tmp_path: Path) -> None:
    coco, flickr = DATA_SETS["coco"], DATA_SETS["flickr30k"]
    assert "what was downloaded is not whole" in (check.lacking(coco, tmp_path) or "")
    message = check.lacking(flickr, tmp_path) or ""
    assert "ask for them with the form https://forms.illinois.edu/sec/229675" in message
    assert f"--data-root {tmp_path} --archive flickr30k-images.tar.gz'" in message
    assert str(tmp_path / "images") in message
