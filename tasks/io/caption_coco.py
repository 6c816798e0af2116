"""The official COCO captions: annotations/captions_train2017.json and the like, with a folder of images per split."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import DataError, NoSplit
from tasks.io.caption_image import Entry, captions_of, check_unique, expect, relative_file, require
from tasks.io.json_files import read_object


@dataclass(frozen=True)
class CocoFiles:
    """The annotation files of one year by split; `home` is the folder that holds train2017/ and so on."""

    paths: Mapping[str, Path]
    home: Path
    year: str

    @property
    def files(self) -> tuple[Path, ...]:
        """The annotation files, one per split."""
        return tuple(self.paths.values())

    def file(self, split: str) -> Path:
        """The annotation file of a split, or the only one, of which a part may be held out."""
        return next(iter(self.paths.values())) if len(self.paths) == 1 else self.paths[split]

    def image_folders(self, split: str) -> tuple[Path, ...]:
        """Where the images of a split may lie."""
        folder = f"{next(iter(self.paths)) if len(self.paths) == 1 else split}{self.year}"
        return (self.home / folder, self.home / "images" / folder, self.home / "images", self.home)

    def entries(self, split: str, *, holdout: float) -> list[Entry]:
        """The images of a split in the order of its file.

        With `holdout`, where there is one annotation file only, whatever split it is of: that share of its images is
        test, as many are val, the rest is train, by the SHA-256 of their ids.

        Raises:
            NoSplit: the split has no file and nothing is held out.
            DataError: wrong types, images that come twice, captions of an unknown image, or an image without captions.
        """
        if len(self.paths) == 1 and holdout > 0:
            return [entry for entry in _read(self.file(split)) if _held_out(entry.image_id, holdout) == split]
        if split not in self.paths:
            raise NoSplit(self._lacking(split))
        return _read(self.paths[split])

    def _lacking(self, split: str) -> str:
        files = " and ".join(path.name for path in self.paths.values())
        folder = next(iter(self.paths.values())).parent
        start = f"{folder}: has {files} but no captions_{split}{self.year}.json"
        if len(self.paths) == 1:
            return f"{start}; add it, or hold images out of the one file with the task's option holdout=0.1"
        if split == "test":  # COCO has never published the captions of its test images
            return f"{start}; evaluate with the task's option split=val, or use Karpathy's dataset_coco.json"
        return f"{start}; add it, or use Karpathy's dataset_coco.json"


def _read(path: Path) -> list[Entry]:
    content = read_object(path)
    files: dict[int, tuple[str, str]] = {}
    images = require(content, "images", list, str(path))
    for number, image in enumerate(images):
        where = f"{path}: images[{number}]"
        file = require(expect(image, dict, where), "file_name", str, where)
        files[require(image, "id", int, where)] = (file, where)
    check_unique([image["id"] for image in images], str(path))
    check_unique([file for file, _ in files.values()], f"{path}: file_name")
    texts = _texts_by_image(path, content, files)
    return [
        Entry(str(id), relative_file([file], f"{where}: file_name"), captions_of(texts[id], f"{where} ({file})"))
        for id, (file, where) in files.items()
    ]


def _texts_by_image(path: Path, content: Mapping[str, Any], known: Mapping[int, object]) -> dict[int, list[str]]:
    texts: dict[int, list[str]] = {id: [] for id in known}
    for number, annotation in enumerate(require(content, "annotations", list, str(path))):
        where = f"{path}: annotations[{number}]"
        image_id = require(expect(annotation, dict, where), "image_id", int, where)
        if image_id not in texts:
            raise DataError(f"{where}: image_id {image_id} is none of the file's images; add the image, or drop this")
        texts[image_id].append(require(annotation, "caption", str, where))
    return texts


def _held_out(image_id: str, share: float) -> str:
    """Where an image belongs: depends on its id alone, so that more images never move the others."""
    position = int.from_bytes(hashlib.sha256(f"holdout {image_id}".encode()).digest()[:8]) / 2**64
    return "test" if position < share else "val" if position < 2 * share else "train"
