"""Data sets: ScienceQA's three files, Karpathy's, COCO's and BLIP's captions, and names of pictures in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tasks
from tasks import DataError
from tests.fuzz.mutations import bad_json
from tests.fuzz.refusals import FULL, cases, fuzz

PROBLEM = {
    "question": "Which is red?", "choices": ["ball", "cube"], "answer": 1, "hint": "", "image": "image.png",
    "grade": "grade3", "subject": "natural science", "lecture": "", "solution": "",
}  # fmt: skip
SCIENCEQA: dict[str, Any] = {
    "problems.json": {"1": PROBLEM, "2": PROBLEM, "3": PROBLEM},
    "pid_splits.json": {"train": ["1"], "val": ["2"], "test": ["3"]},
    "captions.json": {"captions": {"1": "a ball", "2": "a cube", "3": "both"}},
}
SPLITS = ("train", "val", "test")
CAPTIONS: dict[str, dict[str, Any]] = {
    "karpathy": {
        "dataset_coco.json": {
            "images": [
                {"filename": f"{n}.jpg", "filepath": "images", "cocoid": n, "split": s, "sentences": [{"raw": "Dog."}]}
                for n, s in enumerate(SPLITS)
            ]
        }
    },
    "coco": {
        f"annotations/captions_{split}2017.json": {
            "images": [{"id": 3 * n + m, "file_name": f"{2 * n + m}.jpg"} for m in range(2)],
            "annotations": [{"image_id": 3 * n + m, "caption": "A dog."} for m in range(2)],
        }
        for n, split in enumerate(SPLITS)
    },
    "blip": {
        **{f"coco_karpathy_{split}.json": [{"image": f"images/{n}.jpg", "caption": ["A dog."]}]
           for n, split in enumerate(SPLITS)},
        "coco_karpathy_val_gt.json": {"annotations": [{"image_id": 1, "caption": "A dog."}]},
    },
}  # fmt: skip


def write(folder: Path, files: dict[str, Any], pictures: list[str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    for name in pictures:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name)


def reader(name: str, folder: Path, file: str, **options: Any) -> Callable[[bytes], None]:
    """Reads all splits with another content of one file; no picture may lie elsewhere."""
    task = tasks.get(name, **options)

    def read(content: bytes) -> None:
        (folder / file).write_bytes(content)
        for split in SPLITS:
            examples = task.examples(split, folder, limit=2)  # type: ignore[arg-type]
            task.texts(examples, train=True)
            for example in examples:
                assert example.image is None or folder in example.image.resolve().parents

    return read


@pytest.mark.parametrize("file", SCIENCEQA)
def test_scienceqa(file: str, folder: Path) -> None:
    write(folder, SCIENCEQA, [f"images/{split}/{n}/image.png" for n, split in enumerate(SPLITS, start=1)])
    read = reader("scienceqa", folder, file, eval_captions=True)
    good, inputs = json.dumps(SCIENCEQA[file]).encode(), bad_json(SCIENCEQA[file])
    assert fuzz(read, inputs, good=good, folder=folder, errors=(DataError,), count=cases(100)).mostly_refused


@pytest.mark.parametrize(("kind", "file"), [(kind, file) for kind, files in CAPTIONS.items() for file in files])
def test_captions(kind: str, file: str, folder: Path) -> None:
    write(folder, CAPTIONS[kind], [f"images/{n}.jpg" for n in range(6)])
    read = reader("coco_caption", folder, file)
    good, inputs = json.dumps(CAPTIONS[kind][file]).encode(), bad_json(CAPTIONS[kind][file])
    count = cases(FULL // len(CAPTIONS[kind]))
    assert fuzz(read, inputs, good=good, folder=folder, errors=(DataError,), count=count).mostly_refused
