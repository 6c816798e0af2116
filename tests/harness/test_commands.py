"""Commands as they are typed: `data check` on folders that lack a split."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness import cli


def check(root: Path, *more: str, task: str = "coco_caption") -> int:
    return cli.main(["data", "check", "--task", task, "--data-root", str(root), *more])


def test_official_coco_is_whole_without_test_captions(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(coco, "--set", "coco_caption.split=val") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["train: 2 examples, 2 with a picture", "val: 12 examples, 12 with a picture", "test: none"]


def test_the_splits_of_a_run_must_be_there(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(coco) == 2
    assert "no captions_test2017.json; evaluate with the task's option split=val" in capsys.readouterr().err
    (coco / "annotations/captions_train2017.json").rename(coco / "annotations/captions_test2017.json")
    (coco / "train2017").rename(coco / "test2017")
    assert check(coco) == 2
    assert "no captions_train2017.json" in capsys.readouterr().err


def test_what_is_wrong_with_the_third_split_is_said(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = coco / "annotations/captions_test2017.json"
    path.write_text('{"images": 3}')
    assert check(coco, "--set", "coco_caption.split=val") == 2
    assert "captions_test2017.json: images is a number" in capsys.readouterr().err
    content = {"images": [{"id": 9, "file_name": "9.png"}], "annotations": [{"image_id": 9, "caption": "x"}]}
    path.write_text(json.dumps(content))
    assert check(coco, "--set", "coco_caption.split=val") == 2
    assert "captions_test2017.json: 1 of 1 images of test are missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("coco_caption.splt=val", "--set coco_caption.splt: no such field; did you mean 'split'?"),
        ("coco_caption.split=train", "coco_caption: split cannot be 'train'"),
        ("memvp.slots=9", "--set memvp: data check reads coco_caption alone; drop this --set"),
    ],
)
def test_options_are_checked(coco: Path, setting: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(coco, "--set", setting) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_holds_several_data_sets(coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path.parent / f"{tmp_path.name} several"
    for name in ("one", "other"):
        shutil.copytree(coco, root / name)
    on_val = ("--set", "coco_caption.split=val")
    assert check(root, *on_val) == 2
    assert "has several caption data sets; point --data-root at one of" in capsys.readouterr().err
    assert check(root, *on_val, "--set", "coco_caption.folder=other") == 0
    assert "val: 12 examples" in capsys.readouterr().out
