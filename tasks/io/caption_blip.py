"""BLIP's copies of Karpathy's COCO splits: coco_karpathy_train.json, _val.json, _test.json, with or without *_gt.json.

ADEM-VL trains and evaluates on these files.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tasks import DataError, NoSplit
from tasks.io.caption_image import Entry, captions_of, check_unique, expect, image_number, relative_file, require
from tasks.io.json_files import kind, read_object, read_value, shown


@dataclass(frozen=True)
class BlipFiles:
    """The folder with the files; `home` is the folder in which their image paths are looked for."""

    folder: Path
    home: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the three splits that are there."""
        return tuple(sorted(self.folder.glob("coco_karpathy_*.json")))

    def file(self, split: str) -> Path:
        """The file of a split, without the references that a *_gt.json may hold."""
        return self.folder / f"coco_karpathy_{split}.json"

    def image_folders(self, split: str) -> tuple[Path, ...]:
        """Where val2014/ and the like may lie."""
        return (self.home, self.home / "images")

    def entries(self, split: str, *, holdout: float) -> list[Entry]:
        """The images of a split in the order of its file.

        Entries with one caption each (as in training) are put together by image. The references of val and test are
        those of the *_gt.json file where there is one, as in BLIP's own evaluation.

        Raises:
            NoSplit: the split has no file.
            DataError: a file is malformed, wrong types, an image that comes twice or in another split too, or one
                without captions.
        """
        path = self.file(split)
        if not path.exists():
            raise NoSplit(f"{path}: missing file; put it there, or use another split")
        files: dict[str, tuple[PurePosixPath, str]] = {}
        texts: dict[str, list[object]] = {}
        whole: list[str] = []  # ids of entries that have all captions of their image
        for number, value in enumerate(_read_list(path)):
            where = f"{path}: entry {number}"
            entry = expect(value, dict, where)
            file = _file(entry, where)
            id = _image_id(entry, file, where)
            captions = _captions(entry, where)
            if isinstance(captions, list) or id not in files:
                whole.append(id)
            if files.setdefault(id, (file, where))[0] != file:
                raise DataError(f"{where}: image id {shown(id)} is that of {files[id][0]} too; give each image its own")
            texts.setdefault(id, []).extend(captions if isinstance(captions, list) else [captions])
        check_unique(whole, str(path))
        check_unique([str(file) for file, _ in files.values()], f"{path}: image")
        self._check_apart(split, {file for file, _ in files.values()})
        truth = self.folder / f"coco_karpathy_{split}_gt.json"
        if truth.is_file():
            texts = _truth(truth, {id: image_number(file) for id, (file, _) in files.items()})
        return [
            Entry(id, file, captions_of(texts[id], f"{where} ({file.name})")) for id, (file, where) in files.items()
        ]

    def _check_apart(self, split: str, files: Set[PurePosixPath]) -> None:
        """Whether no image is in val or test too; what trains is held against them, they are not against it."""
        for other in sorted({"val", "test"} - {split}):
            path = self.file(other)
            entries = _read_list(path) if path.exists() else []
            if shared := files & {_file(entry, f"{path}: entry {n}") for n, entry in enumerate(entries)}:
                first = f"{self.file(split)}: image {shown(str(min(shared)))} is in {path.name} too"
                raise DataError(f"{first} ({len(shared)} such images); an image belongs to one split")


def _file(entry: object, where: str) -> PurePosixPath:
    return relative_file([require(expect(entry, dict, where), "image", str, where)], f"{where}: image")


def _captions(entry: Mapping[str, Any], where: str) -> str | list[object]:
    captions = entry.get("caption")
    if not isinstance(captions, str | list):
        what = kind(captions) if "caption" in entry else "missing"
        raise DataError(f"{where}: caption is {what}; it must be a text or a list of texts")
    return captions


def _image_id(entry: Mapping[str, Any], file: PurePosixPath, where: str) -> str:
    if "image_id" not in entry:
        return image_number(file)
    value = entry["image_id"]
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise DataError(f"{where}: image_id is {kind(value)}; it must be a text or a whole number")
    return str(value).removeprefix("coco_")  # so in train; val and test have the number in the file name only


def _truth(path: Path, numbers: Mapping[str, str]) -> dict[str, list[object]]:
    """Captions by image id; `numbers` are the COCO numbers of the images, by which the file knows them."""
    found: dict[str, list[object]] = {number: [] for number in numbers.values()}
    for number, annotation in enumerate(require(read_object(path), "annotations", list, str(path))):
        where = f"{path}: annotations[{number}]"
        image = str(require(expect(annotation, dict, where), "image_id", int, where))
        if image in found:
            found[image].append(require(annotation, "caption", str, where))
    lacking = [number for number, captions in found.items() if not captions]
    if lacking:
        raise DataError(f"{path}: no caption of image {lacking[0]} ({len(lacking)} such images); fetch the file again")
    return {id: found[number] for id, number in numbers.items()}


def _read_list(path: Path) -> list[object]:
    value = read_value(path)
    if not isinstance(value, list):
        raise DataError(f"{path}: holds {kind(value)} at its top; it must be a list [...]")
    return value
