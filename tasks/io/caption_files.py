"""Captioned images from a folder: Karpathy's splits, the official COCO captions, or BLIP's copies of the former.

The one way in is `read_captions`. Structure is checked over the whole split, picture files only where they are used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Protocol

from tasks import DataError, NoSplit
from tasks.io.caption_blip import BlipFiles
from tasks.io.caption_coco import CocoFiles
from tasks.io.caption_image import CaptionedImage, Entry, check_unique
from tasks.io.caption_karpathy import KarpathyFile
from tasks.io.files import is_file
from tasks.io.subset import nested_subset

__all__ = ["CaptionedImage", "read_captions"]

_FORMATS = "dataset_*.json (Karpathy), annotations/captions_*.json (COCO) or coco_karpathy_*.json (BLIP)"
# Folders in which the caption files may lie beside those of the images; "" is the data set's folder itself.
_ANNOTATIONS = ("", "annotations", "annotation", "coco_caption")


class CaptionSource(Protocol):
    """One data set on disk in one of the formats."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The caption files it consists of; each of them stands for the whole."""

    def file(self, split: str) -> Path:
        """The caption file that a split is read from."""

    def image_folders(self, split: str) -> tuple[Path, ...]:
        """Where the images of a split may lie, the likeliest first."""

    def entries(self, split: str, *, holdout: float) -> list[Entry]:
        """The checked images of a split, see `read_captions` for what is wrong."""


def read_captions(root: Path, split: str, *, limit: int | None, holdout: float = 0.0) -> list[CaptionedImage]:
    """The images of a split with their captions, in the order of their file; ids are image ids.

    Args:
        root: the data set's folder, a folder that holds it (as flickr8k/ or coco/), or one of its caption files.
        split: train, val or test.
        limit: a fixed subset of so many images, see `nested_subset`.
        holdout: the share of images for val and for test where an official COCO folder has one annotation file only;
            0 refuses such a folder for the splits it lacks.

    Raises:
        DataError: no data set or several, a file that is malformed, an invalid image, or images whose files are
            missing (how many, and the first three).
        NoSplit: the split has no file, or is empty.
        ValueError: a limit below 1.
    """
    source = find_source(root)
    entries = source.entries(split, holdout=holdout)
    name = source.file(split)
    if not entries:
        raise NoSplit(f"{name}: split {split!r} is empty; add images to it or use another split")
    check_unique([entry.image_id for entry in entries], str(name))
    files = {entry.image_id: entry.file for entry in entries}
    images = [CaptionedImage(entry.image_id, None, entry.captions, entry.image_id) for entry in entries]
    folders = source.image_folders(split)
    used = nested_subset(images, limit)
    found = [_find(files[image.id], folders) for image in used]
    missing = [str(files[image.id]) for image, path in zip(used, found, strict=True) if path is None]
    if missing:
        present = next((path for path in found if path is not None), None)
        fix = f"put them into {folders[0]}" if present is None else f"put them where the others are, as {present}"
        raise DataError(
            f"{name}: {len(missing)} of {len(used)} images of {split} are missing (first: "
            f"{', '.join(missing[:3])}); {fix}"
        )
    return [replace(image, image=path) for image, path in zip(used, found, strict=True)]


def find_source(root: Path) -> CaptionSource:
    """The one data set in `root`, or in the folders right below it where it has none itself.

    Raises:
        DataError: there is none, or more than one; names them.
    """
    if not root.exists():
        raise DataError(f"{root}: no such folder; point --data-root at the one with {_FORMATS}")
    if root.is_file():
        home = root.parent.parent if root.parent.name in _ANNOTATIONS else root.parent
        found = [source for source in _sources(home) if root in source.files]
    else:
        found = list(_sources(root))
        if not found:
            inner = sorted(folder for folder in root.iterdir() if folder.is_dir())
            found = [source for folder in inner for source in _sources(folder)]
    if not found:
        raise DataError(f"{root}: no captions here; point --data-root at {_FORMATS}, or at their folder")
    if len(found) > 1:
        names = ", ".join(str(source.files[0]) for source in found)
        fix = "or name the folder of one with --set TASK.folder=FOLDER (TASK: coco_caption or retrieval)"
        raise DataError(f"{root}: has several caption data sets; point --data-root at one of {names}, {fix}")
    return found[0]


def _sources(home: Path) -> Iterator[CaptionSource]:
    for folder in (home / name for name in _ANNOTATIONS):
        yield from (KarpathyFile(path, home) for path in sorted(folder.glob("dataset_*.json")))
        years: dict[str, dict[str, Path]] = {}
        for path in sorted(folder.glob("captions_*.json")):
            if match := re.fullmatch(r"captions_(train|val|test)(\d*)\.json", path.name):
                years.setdefault(match[2], {})[match[1]] = path
        yield from (CocoFiles(paths, home, year) for year, paths in years.items())
        if any(folder.glob("coco_karpathy_*.json")):
            yield BlipFiles(folder, home)


def _find(file: PurePosixPath, folders: Sequence[Path]) -> Path | None:
    """The image under its whole path, or under its bare name, in the first folder that has it."""
    places = (folder / name for folder in folders for name in dict.fromkeys((file, PurePosixPath(file.name))))
    return next((place for place in places if is_file(place)), None)
