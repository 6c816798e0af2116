"""An image with its captions, and the checks that every file format of captions shares."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from tasks import DataError, Example
from tasks.io.json_files import kind, shown


@dataclass(frozen=True)
class CaptionedImage(Example):
    """One image; `captions` has at least one text, none of them blank.

    `id` is unique among the examples of a task, `image_id` names the image also where several examples show it.
    """

    captions: tuple[str, ...]
    image_id: str


@dataclass(frozen=True)
class Entry:
    """What a caption file says of one image: its file relative to some folder of images, and its captions."""

    image_id: str
    file: PurePosixPath
    captions: tuple[str, ...]


def require(values: Mapping[str, Any], name: str, wanted: type, where: str) -> Any:
    """`values[name]`, known to be of the JSON type `wanted` (dict, list, str or int).

    Raises:
        DataError: it is missing or of another type.
    """
    if name not in values:
        raise DataError(f"{where}: {name} is missing; add it")
    return expect(values[name], wanted, f"{where}: {name}")


def expect(value: object, wanted: type, where: str) -> Any:
    """The value, known to be of the JSON type `wanted`.

    Raises:
        DataError: it is of another type.
    """
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is int):
        names = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}
        raise DataError(f"{where} is {kind(value)}; it must be {names[wanted]}")
    return value


def captions_of(texts: Iterable[object], where: str) -> tuple[str, ...]:
    """The captions of one image as a tuple.

    Raises:
        DataError: there are none, or one is blank or no text.
    """
    captions = tuple(expect(text, str, f"{where}: caption {number}") for number, text in enumerate(texts, start=1))
    if not captions:
        raise DataError(f"{where}: has no captions; add one, or leave the image out")
    blank = next((number for number, text in enumerate(captions, start=1) if not text.strip()), None)
    if blank is not None:
        raise DataError(f"{where}: caption {blank} is blank; write it, or leave it out")
    return captions


def relative_file(parts: Sequence[str], where: str) -> PurePosixPath:
    """A file below some folder of images.

    Raises:
        DataError: the path is empty, absolute or climbs up: no data file may point outside its own folder.
    """
    file = PurePosixPath(*parts)
    if not file.name or file.is_absolute() or ".." in file.parts:
        raise DataError(f"{where} is {shown('/'.join(parts))}; it must be a path below the folder of images")
    return file


def image_number(file: PurePosixPath) -> str:
    """The id that a COCO file name carries (`COCO_val2014_000000000042.jpg` is 42), else the name without suffix."""
    digits = re.fullmatch(r"(?:COCO_\w+_)?0*(\d+)", file.stem)
    return digits.group(1) if digits else file.stem


def check_unique(ids: Sequence[object], where: str) -> None:
    """Whether no image id comes twice.

    Raises:
        DataError: names the first that does, and says how many do.
    """
    seen, twice = set[object](), dict[object, None]()
    for id in ids:
        if id in seen:
            twice.setdefault(id)
        seen.add(id)
    if twice:
        first = next(iter(twice))
        raise DataError(
            f"{where}: image id {shown(first)} comes more than once ({len(twice)} such ids); keep one of each"
        )
