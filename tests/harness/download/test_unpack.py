"""Archives land where they should, or nothing of them does."""

from __future__ import annotations

import contextlib
import io
import random
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.download import DownloadError
from harness.download.sources import Unpack
from harness.download.unpack import DamagedArchive, Landed, measure, unpack
from tests.harness.download.archives import (
    files_below,
    tar_special,
    tarred,
    zipped,
    zipped_encrypted,
    zipped_lying,
    zipped_special,
    zipped_twice,
)

TRAIN = Unpack(member="train/", to="images/train", most_files=10, most_bytes=1_000_000)
FLAT = Unpack(member="", to="images", suffix=".jpg", flat=True, most_files=10, most_bytes=1_000_000)
GOOD = {"train/": b"", "train/1/image.png": b"one", "train/2/image.png": b"two!"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def into(root: Path, content: bytes, rule: Unpack = TRAIN) -> Landed:
    archive = root.parent / "a.zip"
    archive.write_bytes(content)
    return unpack(archive, root, rule)


def refused(root: Path, content: bytes, rule: Unpack = TRAIN) -> str:
    """The one line of an archive of which nothing was unpacked, here or elsewhere."""
    with pytest.raises(DownloadError) as caught:
        into(root, content, rule)
    assert files_below(root.parent).keys() == {"a.zip"}
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_a_zip_lands(root: Path) -> None:
    assert into(root, zipped(GOOD)) == Landed(files=2, bytes=7)
    assert files_below(root) == {"images/train/1/image.png": b"one", "images/train/2/image.png": b"two!"}
    assert measure(root / "images/train") == Landed(files=2, bytes=7)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_lands(mode: str, root: Path) -> None:
    folder = tar_special("./flickr30k-images", tarfile.DIRTYPE)
    content = tarred(folder, ("./flickr30k-images/1.jpg", b"one"), ("./flickr30k-images/2.JPG", b"two!"), mode=mode)
    assert into(root, content, FLAT) == Landed(files=2, bytes=7)
    assert files_below(root) == {"images/1.jpg": b"one", "images/2.JPG": b"two!"}


def test_one_member_of_several_lands(root: Path) -> None:
    rule = Unpack(member="dataset_coco.json", to="dataset_coco.json", most_bytes=100)
    assert into(root, zipped({"dataset_coco.json": b"{}", "dataset_flickr8k.json": b"[]"}), rule) == Landed(1, 2)
    assert files_below(root) == {"dataset_coco.json": b"{}"}
    assert measure(root / "dataset_coco.json") == Landed(1, 2)


def test_what_a_system_left_behind_is_left_out(root: Path) -> None:
    litter = {
        "__MACOSX/train/1/._image.png": b"x",
        "train/.DS_Store": b"x",
        "train/1/._image.png": b"x",
        "LICENSE": b"x",
    }
    into(root, zipped(GOOD | litter))
    assert len(files_below(root)) == 2


def test_files_of_an_earlier_try_are_replaced(root: Path) -> None:
    half = root / "images/train/1/image.png"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"o")
    into(root, zipped(GOOD))
    assert half.read_bytes() == b"one"


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "../evil", "train/../../evil", "train/..", "train/1/../../../evil", "..", "\\evil"),
        *(
            "train\\..\\..\\evil",
            "C:\\evil",
            "C:evil",
            "train/1:stream",
            "train/\x1b[2Jevil",
            "train/a\nb",
            "train/a\rb",
        ),
        *("train/\u202egpj.exe", "train/a\u200bb", "train/" + "n" * 256, "train/a\x7fb"),
    ],
)
def test_names_that_lead_astray(name: str, root: Path) -> None:
    assert "not the official archive" in refused(root, zipped(GOOD | {name: b"x"}))
    assert "not the official archive" in refused(root, tarred(("train/1.png", b"x"), (name, b"x")))


@pytest.mark.parametrize("name", [".", "./.", "\0"])
def test_a_file_without_a_name(name: str, root: Path) -> None:
    assert "not the official archive" in refused(root, zipped({name: b"x"}), FLAT)
    if name != "\0":  # tar ends a name there
        assert "is a file without a name" in refused(root, tarred((name, b"x")), FLAT)


def test_a_name_with_a_nul(root: Path) -> None:
    assert "no file name should have" in refused(root, zipped(GOOD | {"train/a\0.png": b"x"}))


@pytest.mark.parametrize(
    "names",
    [
        ("train/1.png", "train/1.png"),
        ("train/a.png", "train/A.PNG"),
        ("train/\u00e9.png", "train/e\u0301.png"),
        ("train/a", "train/a/b.png"),
        ("train/a/b.png", "train/A"),
    ],
    ids=["same", "capitals", "accents", "file then folder", "folder then file"],
)
def test_names_that_meet(names: tuple[str, str], root: Path) -> None:
    assert "is there twice" in refused(root, tarred(*((name, b"x") for name in names)))
    same = len(set(names)) == 1
    assert "is there twice" in refused(root, zipped_twice(names[0]) if same else zipped(dict.fromkeys(names, b"x")))


def test_names_that_meet_where_they_land(root: Path) -> None:
    assert "is there twice" in refused(root, zipped({"a/1.jpg": b"x", "b/1.jpg": b"y"}), FLAT)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (stat.S_IFLNK, "symbolic link"),
        (stat.S_IFIFO, "pipe"),
        (stat.S_IFCHR, "device"),
        (stat.S_IFBLK, "device"),
        (stat.S_IFSOCK, "special file"),
    ],
)
def test_a_zip_with_a_special_file(kind: int, said: str, root: Path) -> None:
    assert f"'train/x' is a {said}" in refused(root, zipped_special("train/x", kind))


@pytest.mark.parametrize(
    ("kind", "to", "said"),
    [
        (tarfile.SYMTYPE, "/etc/passwd", "symbolic link"),
        (tarfile.SYMTYPE, "1.png", "symbolic link"),
        (tarfile.LNKTYPE, "train/1.png", "hard link"),
        (tarfile.LNKTYPE, "../../evil", "hard link"),
        (tarfile.CHRTYPE, "", "device"),
        (tarfile.BLKTYPE, "", "device"),
        (tarfile.FIFOTYPE, "", "special file"),
    ],
)
def test_a_tar_with_a_link_or_a_device(kind: bytes, to: str, said: str, root: Path) -> None:
    content = tarred(("train/1.png", b"x"), tar_special("train/x", kind, to=to), ("train/x/evil", b"x"))
    assert f"'train/x' is a {said}" in refused(root, content)


def test_a_bomb_is_not_unpacked(root: Path) -> None:
    bomb = {"train/1.png": bytes(1_000_001)}
    assert len(zipped(bomb)) < 5_000
    limits = "it holds more than the 10 members or 1,000,000 bytes that are allowed"
    assert limits in refused(root, zipped(bomb))
    assert limits in refused(root, tarred(*bomb.items()))
    assert limits in refused(root, zipped({f"train/{number}.png": b"" for number in range(11)}))
    assert limits in refused(root, zipped({"elsewhere": bytes(600_000), "train/1.png": bytes(600_000)}))


@pytest.mark.parametrize("claimed", [1, 99_999, 100_001])
def test_a_member_of_another_size_than_it_claims(claimed: int, root: Path) -> None:
    refused(root, zipped_lying("train/1.png", bytes(100_000), claimed=claimed))


def test_more_than_the_disk_holds(root: Path) -> None:
    rule = Unpack(member="train/", to="images/train", most_bytes=2**60)
    message = refused(root, zipped_lying("train/1.png", b"x", claimed=10**17), rule)
    assert "unpacks to 100000000.0 GB" in message
    assert "free some, or name a folder on another disk" in message


def test_an_encrypted_member(root: Path) -> None:
    assert "'train/1.png' is a file under a password" in refused(root, zipped_encrypted("train/1.png"))


def test_an_archive_of_something_else(root: Path) -> None:
    assert "it holds no train/*" in refused(root, zipped({"val/1/image.png": b"x"}))
    assert "it holds no *.jpg" in refused(root, zipped({"README": b"x"}), FLAT)


@pytest.mark.parametrize("cut", [0, 1, 10, 100, -40])
def test_an_archive_that_is_cut_off(cut: int, root: Path) -> None:
    noise = random.Random(0).randbytes(20_000)
    for whole, rule in ((zipped(GOOD), TRAIN), (tarred(("1.jpg", noise), ("2.jpg", noise[::-1])), FLAT)):
        with pytest.raises(DamagedArchive, match="cannot be unpacked"):
            into(root, whole[: cut if rule is TRAIN else 200 * abs(cut)], rule)
        assert files_below(root) == {}


def test_a_flipped_bit_shows(root: Path) -> None:
    content = bytearray(zipped({"train/1.png": bytes(1000)}))
    content[content.index(b"train/1.png") + 13] ^= 8
    with pytest.raises(DamagedArchive, match=r"a\.zip: cannot be unpacked"):
        into(root, bytes(content))
    assert files_below(root) == {}


def test_no_archive_at_all(root: Path) -> None:
    with pytest.raises(DamagedArchive, match="cannot be unpacked"):
        into(root, b"<html>not found</html>")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_an_error_of_the_disk(root: Path) -> None:
    place = root / "images" / "train" / "1"
    place.mkdir(parents=True)
    (place / ".unpacking").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        into(root, zipped(GOOD))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.text(st.sampled_from("a./\\:\0\n.Aé\u202e"), min_size=1, max_size=8), max_size=4, unique=True))
def test_no_name_leaves_the_folder(names: list[str], tmp_path: Path) -> None:
    root = tmp_path / "outer" / "data"
    root.mkdir(parents=True, exist_ok=True)
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped(dict.fromkeys(names, b"x")))
    rule = Unpack(member="", to="images", most_bytes=100)
    with contextlib.suppress(DownloadError):
        unpack(archive, root, rule)
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and root / "images" not in path.parents]
    assert outside == [archive]


def test_the_helpers_write_what_they_say() -> None:
    with zipfile.ZipFile(io.BytesIO(zipped_twice("train/1.png"))) as archive:
        assert archive.namelist() == ["train/1.png"] * 2
