"""Karpathy's splits: dataset_coco.json, dataset_flickr8k.json, dataset_flickr30k.json (Karpathy and Fei-Fei 2015)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import DataError
from tasks.io.caption_image import Entry, captions_of, check_unique, expect, relative_file, require
from tasks.io.json_files import read_object, shown

# `restval` are images of COCO's val2014 that are neither in val nor in test; all use them for training.
_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


@dataclass(frozen=True)
class KarpathyFile:
    """One such file; it holds all splits. `home` is the folder in which images are looked for."""

    path: Path
    home: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """The one file."""
        return (self.path,)

    def file(self, split: str) -> Path:
        """The one file."""
        return self.path

    def image_folders(self, split: str) -> tuple[Path, ...]:
        """Where images may lie: beside the file, or where the archives of Flickr8k and Flickr30k put them."""
        inner = ("images", "Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k-images", "flickr30k_images")
        return (self.home, *(self.home / name for name in inner))

    def entries(self, split: str, *, holdout: float) -> list[Entry]:
        """The images of a split in the order of the file; `train` includes `restval`.

        Raises:
            DataError: wrong types, an unknown split, an image of any split that comes twice, or one without captions.
        """
        images = require(read_object(self.path), "images", list, str(self.path))
        checked = [self._image(image, number) for number, image in enumerate(images)]
        for field in ("cocoid", "imgid"):
            check_unique([image[field] for image, _ in checked if field in image], f"{self.path}: {field}")
        files = [(image.get("filepath", ""), image["filename"]) for image, _ in checked]
        check_unique(["/".join(filter(None, parts)) for parts in files], f"{self.path}: filename")
        return [self._entry(image, where) for image, where in checked if _SPLITS[image["split"]] == split]

    def _image(self, image: object, number: int) -> tuple[dict[str, Any], str]:
        where = f"{self.path}: images[{number}]"
        known: dict[str, Any] = expect(image, dict, where)
        require(known, "filename", str, where)
        if require(known, "split", str, where) not in _SPLITS:
            raise DataError(f"{where}: split is {shown(known['split'])}; it must be one of {', '.join(_SPLITS)}")
        if "filepath" in known:
            require(known, "filepath", str, where)
        for field in ("cocoid", "imgid"):
            if field in known:
                require(known, field, int, where)
        return known, where

    def _entry(self, image: Mapping[str, Any], where: str) -> Entry:
        sentences = require(image, "sentences", list, where)
        places = [f"{where}: sentences[{number}]" for number in range(len(sentences))]
        texts = [
            require(expect(sentence, dict, place), "raw", str, place)
            for sentence, place in zip(sentences, places, strict=True)
        ]
        file = relative_file([image.get("filepath", ""), image["filename"]], f"{where}: filename")
        image_id = str(image.get("cocoid", image.get("imgid", file)))
        return Entry(image_id, file, captions_of(texts, f"{where} ({file.name})"))
