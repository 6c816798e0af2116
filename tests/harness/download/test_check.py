"""What `data check` says of a folder that was downloaded, half downloaded, changed, or never there."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from harness.download import check, record
from harness.download.folder import Request, download
from harness.download.sources import DATA_SETS
from tasks import DataError
from tests.harness.download.archives import zipped
from tests.harness.download.server import Site

SCIENCEQA = DATA_SETS["scienceqa"]
TASK = "scienceqa"


def problem(**fields: object) -> dict[str, object]:
    return {"question": "Which?", "choices": ["this", "that"], "answer": 0, "image": None, **fields}


def put_scienceqa(site: Site, *, lost: str = "", picture: bytes = b"no real picture") -> None:
    """A tiny ScienceQA on the server, as a mirror has it; `lost` is a problem whose picture its archive lacks."""
    splits = {"train": ["1", "2"], "val": ["3"], "test": ["4"]}
    problems = {pid: problem(image="image.png") for pids in splits.values() for pid in pids}
    site.files |= {
        "/problems.json": json.dumps(problems).encode(),
        "/pid_splits.json": json.dumps(splits).encode(),
        "/captions.json": json.dumps({"captions": {"1": "a thing"}}).encode(),
    }
    for split, pids in splits.items():
        members = {f"{split}/{pid}/image.png": picture for pid in pids if pid != lost}
        site.files[f"/{split}.zip"] = zipped(members | {f"{split}/choice.png": b"x"})


@pytest.fixture
def home(site: Site, tmp_path: Path) -> Path:
    """It, downloaded."""
    put_scienceqa(site)
    download(Request(SCIENCEQA, tmp_path / "my data", site.url, None, lambda _: None))
    return tmp_path / "my data"


def fault(home: Path, task: str = TASK) -> str:
    with pytest.raises(DataError) as caught:
        check.verify(task, home)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_whole_folder(home: Path) -> None:
    assert check.lacking(SCIENCEQA, home) is None
    assert check.verify(TASK, home) == [f"{home}: 6 files as download.json has them"]
    assert f"vltune data check --task scienceqa --data-root '{home}'" in check.next_steps(SCIENCEQA, home)


def test_the_folder_around_it_will_do(home: Path) -> None:
    home.rename(home.parent / "scienceqa")
    assert len(check.verify(TASK, home.parent)) == 1
    assert check.verify("retrieval", home.parent) == []


def test_a_folder_of_ones_own_is_no_matter(tmp_path: Path) -> None:
    assert check.verify(TASK, tmp_path) == []
    assert check.verify(TASK, tmp_path / "none") == []


def test_what_was_lost_is_named(home: Path) -> None:
    (home / "images/train/2/image.png").unlink()
    (home / "captions.json").unlink()
    message = fault(home)
    assert "captions.json is missing, some of the 3 files of train.zip is missing" in message
    assert f"'vltune data download scienceqa --data-root '{home}'' fetches what is missing" in message


def test_what_was_edited_is_named(home: Path) -> None:
    path = home / "problems.json"
    path.write_text(path.read_text().replace("Which?", "Where?"))
    assert fault(home).startswith(
        f"{path}: has changed since it was downloaded; delete it to fetch it again, or delete"
    )


def test_an_unfinished_download_is_named(home: Path) -> None:
    known = record.read(home)
    assert known is not None
    unfinished = known.without("val.zip").with_file(
        "test.zip", known.files["test.zip"].model_copy(update={"unpacked": None})
    )
    record.write(home, unfinished)
    (home / "val.zip.part").write_bytes(bytes(5000))
    message = fault(home)
    assert "val.zip is not downloaded beyond 5.0 kB" in message
    assert "test.zip is not unpacked" in message


def test_a_damaged_record_is_one_line(home: Path) -> None:
    (home / record.NAME).write_text("{")
    assert fault(home).startswith(f"{home / record.NAME}: ")


def test_an_archive_that_lacks_a_picture(site: Site, tmp_path: Path) -> None:
    put_scienceqa(site, lost="2")
    download(Request(SCIENCEQA, tmp_path, site.url, None, lambda _: None))
    message = check.lacking(SCIENCEQA, tmp_path) or ""
    assert message.startswith("what was downloaded is not whole: ")
    assert "missing picture of problem '2'" in message


def test_how_to_get_a_folder_that_is_not_there(tmp_path: Path) -> None:
    none = tmp_path / "none"
    said = check.how_to_get(TASK, none, error="no such folder") or ""
    assert said.startswith(f"'vltune data download scienceqa --data-root {none}' fetches problems.json, ")
    said = check.how_to_get("retrieval", none, error="no such folder")
    assert said == f"'vltune data download coco --data-root {none}' fetches one (or take flickr30k, flickr8k)"
    assert check.how_to_get("retrieval", tmp_path, error="no captions here") is not None
    assert check.how_to_get("a task of another package", none, error="no such folder") is None


def test_how_to_get_the_rest(tmp_path: Path) -> None:
    (tmp_path / "problems.json").touch()
    said = check.how_to_get(TASK, tmp_path, error=f"{tmp_path}/pid_splits.json: missing file") or ""
    assert said.endswith("fetches pid_splits.json, captions.json, images/train, images/val, images/test")
    assert check.how_to_get(TASK, tmp_path, error="problem '3': answer 7 is out of range") is None


def test_how_to_ask_for_pictures(tmp_path: Path) -> None:
    (tmp_path / "dataset_flickr8k.json").touch()
    said = check.how_to_get("coco_caption", tmp_path, error="8000 of 8000 images are missing") or ""
    assert "ask for them with the form https://forms.illinois.edu/sec/1713398" in said
    assert "--archive Flickr8k_Dataset.zip" in said
    (tmp_path / "images").mkdir()
    assert check.how_to_get("coco_caption", tmp_path, error="1 of 8000 images is missing") is None


def test_pictures_on_request_make_a_folder_whole(site: Site, tmp_path: Path) -> None:
    images = [
        {"filename": f"{split}.jpg", "split": split, "sentences": [{"raw": "a thing"}]}
        for split in ("train", "val", "test")
    ]
    site.files["/caption_datasets.zip"] = zipped({"dataset_flickr8k.json": json.dumps({"images": images}).encode()})
    [splits] = DATA_SETS["flickr8k"].sources
    unchecked = dataclasses.replace(splits, size_bytes=None, digest=None)
    flickr8k = dataclasses.replace(DATA_SETS["flickr8k"], sources=(unchecked,))
    root, archive = tmp_path / "data", tmp_path / "sent.zip"

    def after_download(*names: str) -> str | None:
        archive.write_bytes(zipped({f"Flicker8k_Dataset/{name}.jpg": b"x" for name in names}))
        download(Request(flickr8k, root, site.url, archive if names else None, lambda _: None))
        return check.lacking(flickr8k, root)

    assert (after_download() or "").startswith(f"{root}: the pictures are given out on request only: ask for them")
    assert "1 of 1 images of test are missing" in (after_download("train", "val") or "")
    assert after_download("train", "val", "test") is None
    assert check.verify("retrieval", root) == [f"{root}: 2 files as download.json has them"]


def test_coco_without_its_pictures(tmp_path: Path) -> None:
    (tmp_path / "dataset_coco.json").touch()
    error = "5 of 5 images of val are missing (first: val2014/COCO_val2014_000000000042.jpg)"
    said = check.how_to_get("retrieval", tmp_path, error=error) or ""
    assert said == f"'vltune data download coco --data-root {tmp_path}' fetches train2014, val2014"
