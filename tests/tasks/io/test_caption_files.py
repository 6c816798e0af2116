from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tasks import DataError, NoSplit
from tasks.io.caption_files import CaptionedImage, read_captions


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (10, 20, 30)).save(path)


def dump(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def flickr_image(number: int, split: str, **fields: Any) -> dict[str, Any]:
    whole = {
        "filename": f"{number}_a.jpg",
        "imgid": number,
        "split": split,
        "sentences": [{"raw": f"A dog {number}.", "tokens": ["a"]}, {"raw": f"Dog {number} .", "tokens": ["dog"]}],
    } | fields
    return {name: value for name, value in whole.items() if value is not ...}


@pytest.fixture
def flickr(tmp_path: Path) -> Path:
    """Two training images and one of each other split; the path has spaces and accents."""
    folder = tmp_path / "Daten für évaluation" / "flickr8k"
    images = [flickr_image(n, s) for n, s in enumerate(("train", "val", "test", "train"))]
    dump(folder / "dataset_flickr8k.json", {"dataset": "flickr8k", "images": images})
    for image in images:
        picture(folder / "images" / image["filename"])
    return folder


def change(folder: Path, number: int, **fields: Any) -> None:
    split = ("train", "val", "test", "train")[number]
    path = folder / "dataset_flickr8k.json"
    content = json.loads(path.read_text())
    content["images"][number] = flickr_image(number, **{"split": split} | fields)
    dump(path, content)


def test_karpathy_flickr(flickr: Path) -> None:
    folder = flickr / "images"
    expected = [
        CaptionedImage("0", folder / "0_a.jpg", ("A dog 0.", "Dog 0 ."), "0"),
        CaptionedImage("3", folder / "3_a.jpg", ("A dog 3.", "Dog 3 ."), "3"),
    ]
    assert read_captions(flickr, "train", limit=None) == expected
    assert read_captions(flickr.parent, "train", limit=None) == expected
    assert read_captions(flickr / "dataset_flickr8k.json", "train", limit=None) == expected
    assert [image.id for split in ("val", "test") for image in read_captions(flickr, split, limit=None)] == ["1", "2"]


def test_karpathy_coco_takes_restval_into_train(tmp_path: Path) -> None:
    files = {9: ("train2014", "train"), 42: ("val2014", "restval"), 73: ("val2014", "val")}
    images = [
        {
            "filepath": folder,
            "filename": f"COCO_{folder}_{number:012}.jpg",
            "cocoid": number,
            "imgid": place,
            "split": split,
            "sentences": [{"raw": "A cat."}],
        }
        for place, (number, (folder, split)) in enumerate(files.items())
    ]
    dump(tmp_path / "dataset_coco.json", {"images": images})
    for image in images:
        picture(tmp_path / image["filepath"] / image["filename"])
    assert [image.id for image in read_captions(tmp_path, "train", limit=None)] == ["9", "42"]
    [val] = read_captions(tmp_path, "val", limit=None)
    assert val == CaptionedImage("73", tmp_path / "val2014/COCO_val2014_000000000073.jpg", ("A cat.",), "73")
    with pytest.raises(NoSplit, match=r"dataset_coco\.json: split 'test' is empty"):
        read_captions(tmp_path, "test", limit=None)


def official(folder: Path, split: str, numbers: range) -> Path:
    content = {
        "images": [{"id": n, "file_name": f"{n:012}.jpg"} for n in numbers],
        "annotations": [{"image_id": n, "id": 10 * n + k, "caption": f"{n} {k}"} for k in range(2) for n in numbers],
    }
    for image in content["images"]:
        picture(folder / f"{split}2017" / image["file_name"])
    return dump(folder / "annotations" / f"captions_{split}2017.json", content)


def test_official_coco(tmp_path: Path) -> None:
    official(tmp_path, "train", range(1, 4))
    path = official(tmp_path, "val", range(7, 9))
    val = read_captions(tmp_path, "val", limit=None)
    assert val == [
        CaptionedImage(str(n), tmp_path / f"val2017/{n:012}.jpg", (f"{n} 0", f"{n} 1"), str(n)) for n in (7, 8)
    ]
    assert read_captions(path, "val", limit=None) == val
    assert [image.id for image in read_captions(tmp_path, "train", limit=None)] == ["1", "2", "3"]
    with pytest.raises(NoSplit, match=r"no captions_test2017\.json; evaluate with the task's option split=val"):
        read_captions(tmp_path, "test", limit=None)


def test_the_file_of_the_split_is_named(tmp_path: Path) -> None:
    official(tmp_path, "train", range(1, 4))
    path = official(tmp_path, "val", range(7, 9))
    (tmp_path / "val2017/000000000008.jpg").unlink()
    with pytest.raises(DataError) as error:
        read_captions(tmp_path, "val", limit=None)
    assert str(error.value).startswith(f"{path}: 1 of 2 images of val are missing (first: 000000000008.jpg)")
    dump(path, {"images": [], "annotations": []})
    with pytest.raises(NoSplit) as error:
        read_captions(tmp_path, "val", limit=None)
    assert str(error.value).startswith(f"{path}: split 'val' is empty")


def test_one_official_file_is_split_on_demand_only(tmp_path: Path) -> None:
    official(tmp_path, "train", range(200))
    assert len(read_captions(tmp_path, "train", limit=None)) == 200
    with pytest.raises(DataError, match=r"has captions_train2017\.json but no captions_test2017\.json; .*holdout=0\.1"):
        read_captions(tmp_path, "test", limit=None)
    parts = {s: read_captions(tmp_path, s, limit=None, holdout=0.2) for s in ("train", "val", "test")}
    ids = {split: {image.id for image in images} for split, images in parts.items()}
    assert ids["train"] | ids["val"] | ids["test"] == {str(n) for n in range(200)}
    assert sum(map(len, ids.values())) == 200
    assert 25 < len(ids["val"]) < 55
    assert 25 < len(ids["test"]) < 55
    # Nobody moves when images are taken away.
    official(tmp_path, "train", range(100))
    fewer = {image.id for image in read_captions(tmp_path, "test", limit=None, holdout=0.2)}
    assert fewer == {id for id in ids["test"] if int(id) < 100}


def blip(folder: Path) -> None:
    files = {n: f"val2014/COCO_val2014_{n:012}.jpg" for n in (5, 73, 391895)}
    train = [{"caption": f"c{k}", "image": files[n], "image_id": f"coco_{n}"} for n in (5, 391895) for k in range(3)]
    dump(folder / "annotation/coco_karpathy_train.json", train)
    dump(folder / "annotation/coco_karpathy_test.json", [{"image": files[73], "caption": ["one", "two"]}])
    for file in files.values():
        picture(folder / "images" / file)


def test_blip_groups_training_captions_and_reads_lists(tmp_path: Path) -> None:
    blip(tmp_path)
    train = read_captions(tmp_path, "train", limit=None)
    assert [(image.id, image.captions) for image in train] == [
        ("5", ("c0", "c1", "c2")),
        ("391895", ("c0", "c1", "c2")),
    ]
    path = tmp_path / "images/val2014/COCO_val2014_000000000073.jpg"
    assert read_captions(tmp_path, "test", limit=None) == [CaptionedImage("73", path, ("one", "two"), "73")]
    with pytest.raises(NoSplit, match=r"coco_karpathy_val\.json: missing file"):
        read_captions(tmp_path, "val", limit=None)


def test_blip_references_come_from_the_truth_file(tmp_path: Path) -> None:
    blip(tmp_path)
    truth = tmp_path / "annotation/coco_karpathy_test_gt.json"
    dump(truth, {"annotations": [{"image_id": 73, "caption": "Truth.", "id": 0}], "images": [{"id": 73}]})
    assert read_captions(tmp_path, "test", limit=None)[0].captions == ("Truth.",)
    dump(truth, {"annotations": [{"image_id": 6, "caption": "Truth.", "id": 0}]})
    with pytest.raises(DataError, match=r"no caption of image 73 \(1 such images\)"):
        read_captions(tmp_path, "test", limit=None)


def test_blip_bad_entries(tmp_path: Path) -> None:
    blip(tmp_path)
    path = tmp_path / "annotation/coco_karpathy_test.json"
    for entries, message in (
        ([{"image": "a.jpg", "caption": ["x"]}] * 2, r"image id 'a' comes more than once \(1 such ids\)"),
        ([{"image": "a.jpg", "image_id": n, "caption": ["x"]} for n in "12"], "image: image id 'a.jpg' comes more"),
        ([{"image": "a.jpg"}], "entry 0: caption is missing; it must be a text or a list of texts"),
        ([{"caption": "x"}], "entry 0: image is missing; add it"),
        ([{"image": "a.jpg", "caption": []}], r"entry 0 \(a\.jpg\): has no captions"),
        ([{"image": "/etc/a.jpg", "caption": ["x"]}], "must be a path below the folder of images"),
        ({"image": "a.jpg"}, r"holds an object at its top; it must be a list \[\.\.\.\]"),
    ):
        dump(path, entries)
        with pytest.raises(DataError, match=message):
            read_captions(tmp_path, "test", limit=None)
    path.write_text('[{"image": \n "a"]')
    with pytest.raises(DataError, match=r"coco_karpathy_test\.json: malformed JSON at line 2 column 5"):
        read_captions(tmp_path, "test", limit=None)


@pytest.mark.parametrize("split", ["train", "val"])
def test_blip_images_of_two_splits_are_refused(tmp_path: Path, split: str) -> None:
    blip(tmp_path)
    dump(tmp_path / "annotation/coco_karpathy_val.json", [{"image": "val2014/v.jpg", "caption": ["x"]}])
    path = tmp_path / f"annotation/coco_karpathy_{split}.json"
    content = json.loads(path.read_text())
    dump(path, [*content, {"image": "val2014/COCO_val2014_000000000073.jpg", "caption": ["one"]}])
    with pytest.raises(DataError) as error:
        read_captions(tmp_path, split, limit=None)
    said = f"{path}: image 'val2014/COCO_val2014_000000000073.jpg' is in coco_karpathy_test.json too (1 such images)"
    assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sentences": []}, r"images\[0\] \(0_a\.jpg\): has no captions; add one, or leave the image out"),
        ({"sentences": ...}, r"images\[0\]: sentences is missing; add it"),
        ({"sentences": [{"raw": "x"}, {"raw": " \n"}]}, r"images\[0\] \(0_a\.jpg\): caption 2 is blank"),
        ({"sentences": [{"raw": 7}]}, r"images\[0\]: sentences\[0\]: raw is a number; it must be a text"),
        ({"sentences": ["x"]}, r"images\[0\]: sentences\[0\] is a text; it must be an object"),
        ({"split": "tran"}, r"images\[0\]: split is 'tran'; it must be one of train, restval, val, test"),
        ({"filename": "../0_a.jpg"}, r"filename is '.*\.\./0_a\.jpg'; it must be a path below the folder of images"),
        ({"filename": None}, r"images\[0\]: filename is null; it must be a text"),
        ({"imgid": True}, r"images\[0\]: imgid is a truth value; it must be a whole number"),
        ({"imgid": 3}, r"imgid: image id 3 comes more than once \(1 such ids\); keep one of each"),
        ({"filename": "1_a.jpg"}, r"filename: image id '1_a\.jpg' comes more than once"),
    ],
)
def test_karpathy_bad_fields(flickr: Path, fields: dict[str, Any], message: str) -> None:
    change(flickr, 0, **fields)
    with pytest.raises(DataError, match=message) as error:
        read_captions(flickr, "train", limit=None)
    assert str(error.value).startswith(str(flickr / "dataset_flickr8k.json"))
    assert "\n" not in str(error.value)


def test_official_bad_annotations(tmp_path: Path) -> None:
    path = official(tmp_path, "val", range(1, 3))
    content = json.loads(path.read_text())
    image, annotation = content["images"][0], content["annotations"][0]
    for fields, message in (
        ({"annotations": []}, r"images\[0\] \(000000000001\.jpg\): has no captions"),
        ({"annotations": [annotation | {"image_id": 9}]}, r"annotations\[0\]: image_id 9 is none of the file's images"),
        ({"annotations": [annotation | {"caption": None}]}, r"annotations\[0\]: caption is null; it must be a text"),
        ({"images": [image, image]}, "image id 1 comes more than once"),
        ({"images": [image, image | {"id": 2}]}, "file_name: image id '000000000001.jpg' comes more than once"),
        ({"images": [image | {"id": "1"}]}, r"images\[0\]: id is a text; it must be a whole number"),
        ({"images": {}}, "images is an object; it must be a list"),
    ):
        dump(path, content | fields)
        with pytest.raises(DataError, match=message):
            read_captions(tmp_path, "val", limit=None)


def test_malformed_json_names_line_and_column(flickr: Path) -> None:
    (flickr / "dataset_flickr8k.json").write_text('{"images": [\n  {"filename": }')
    with pytest.raises(DataError, match=r"dataset_flickr8k\.json: malformed JSON at line 2 column 16"):
        read_captions(flickr, "train", limit=None)


def test_missing_images_are_counted_and_only_looked_for_where_needed(tmp_path: Path) -> None:
    images = [flickr_image(n, "train" if n < 9 else "val") for n in range(10)]
    dump(tmp_path / "dataset_flickr8k.json", {"images": images})
    picture(tmp_path / "9_a.jpg")
    picture(tmp_path / "0_a.jpg")
    with pytest.raises(DataError) as error:
        read_captions(tmp_path, "train", limit=None)
    assert "8 of 9 images of train are missing (first: 1_a.jpg, 2_a.jpg, 3_a.jpg); put them where" in str(error.value)
    assert str(tmp_path / "0_a.jpg") in str(error.value)
    assert len(read_captions(tmp_path, "val", limit=None)) == 1
    with pytest.raises(DataError, match="of 4 images of train are missing"):
        read_captions(tmp_path, "train", limit=4)


def test_limits_are_nested_and_ignore_file_order(flickr: Path) -> None:
    images = [flickr_image(n, "train") for n in range(30)]
    for image in images:
        picture(flickr / image["filename"])
    subsets = []
    for order in (images, images[::-1]):
        dump(flickr / "dataset_flickr8k.json", {"images": order})
        small, large = (read_captions(flickr, "train", limit=limit) for limit in (4, 12))
        assert small == large[:4]
        subsets.append(large)
    assert subsets[0] == subsets[1]
    assert len(subsets[0]) == 12
    with pytest.raises(ValueError, match="limit must be at least 1"):
        read_captions(flickr, "train", limit=0)


def test_several_or_no_data_sets(flickr: Path) -> None:
    root = flickr.parent
    (root / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no captions here; point --data-root at dataset_\*\.json"):
        read_captions(root / "empty", "train", limit=None)
    with pytest.raises(DataError, match="nowhere: no such folder"):
        read_captions(root / "nowhere", "train", limit=None)
    path = official(root / "coco", "train", range(2))
    with pytest.raises(DataError) as error:
        read_captions(root, "train", limit=None)
    both = f"{path}, {flickr / 'dataset_flickr8k.json'}"
    assert str(error.value).startswith(f"{root}: has several caption data sets; point --data-root at one of {both}, or")
    assert str(error.value).endswith("with --set TASK.folder=FOLDER (TASK: coco_caption or retrieval)")
    # The folder's own data set comes before those of the folders in it.
    dump(root / "dataset_mine.json", {"images": [flickr_image(0, "train")]})
    picture(root / "0_a.jpg")
    assert len(read_captions(root, "train", limit=None)) == 1
    other = dump(root / "notes.json", {})
    with pytest.raises(DataError, match=r"notes\.json: no captions here"):
        read_captions(other, "train", limit=None)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("folder", "split", "holdout", "n", "n_captions"),
    [
        ("flickr8k", "train", 0.0, 753, 3765),
        ("flickr8k", "val", 0.0, 113, 565),
        ("flickr8k", "test", 0.0, 125, 625),
        ("coco", "train", 0.0, 80, 400),
        ("coco", "train", 0.1, 65, 325),
        ("coco", "test", 0.1, 8, 40),
    ],
)
def test_reads_the_real_data(shared: Path, folder: str, split: str, holdout: float, n: int, n_captions: int) -> None:
    images = read_captions(shared / "data" / folder, split, limit=None, holdout=holdout)
    assert (len(images), sum(len(image.captions) for image in images)) == (n, n_captions)
