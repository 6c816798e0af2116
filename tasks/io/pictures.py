"""Pictures for every task: decoding, resizing, a memory of decoded pixels, normalisation per batch."""

from __future__ import annotations

import math
import random
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from tasks import DataError
from tasks.io.distortions import distort


class Norm(NamedTuple):
    """Mean and standard deviation of each colour channel, for values in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Normalised(Protocol):
    """A model that says which image constants its vision tower was trained with."""

    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]


IMAGENET = Norm((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = Norm((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

Square = Callable[[Image.Image, int], Image.Image]
"""Makes a square picture of the given side in pixels."""

NORMS = ("imagenet", "clip", "backbone")
"""What tasks offer as `image_norm`."""

AUGMENTATIONS = ("none", "crop-flip", "crop-flip-rand")
"""What tasks offer as `augment`."""


def norm_named(name: str, model: Normalised) -> Norm:
    """The constants of a name in `NORMS`; `backbone` means the model's own."""
    own = Norm(model.image_mean, model.image_std)
    return {"imagenet": IMAGENET, "clip": CLIP, "backbone": own}[name]


FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What pictures are read as; of Pillow's others some run programs of the system (EPS) or are hardly ever used."""
MOST_PIXELS = 1024 * 1024 * 1024 // 4 // 3
"""Of one picture: from here on Pillow warns; decoded and as RGB it takes 8 bytes of memory for each."""

# All that Pillow raises on broken bytes: its own errors are OSErrors, its decoders let the others through.
BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(RuntimeError, MemoryError, struct.error, zlib.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)


@dataclass
class PictureMemory:
    """Decoded and resized pictures, kept as bytes so that later epochs do not decode them again.

    Once `byte_limit` is reached nothing more is kept and nothing is thrown out: under shuffled epochs a memory
    that replaces its oldest entries would miss almost always, this one hits for its share.
    """

    byte_limit: int = 2 * 1024**3
    _kept: dict[tuple[Path, int], Tensor] = field(default_factory=dict, init=False, repr=False)
    _kept_bytes: int = field(default=0, init=False, repr=False)

    def pixels(self, path: Path, size: int) -> UInt8[Tensor, "3 {size} {size}"]:
        """One picture as `read_picture` gives it.

        Raises:
            DataError: the picture is missing or broken.
        """
        known = self._kept.get((path, size))
        if known is not None:
            return known
        pixels = read_picture(path, size)
        if self._kept_bytes + pixels.nbytes <= self.byte_limit:
            self._kept[path, size] = pixels
            self._kept_bytes += pixels.nbytes
        return pixels

    def check(self, paths: Iterable[Path | None], size: int) -> None:
        """Decode every picture once, keeping what fits.

        Raises:
            DataError: some are missing or broken; names the first and says how many.
        """
        faults: list[DataError] = []
        used = list(dict.fromkeys(path for path in paths if path is not None))
        for path in used:
            try:
                self.pixels(path, size)
            except DataError as error:
                faults.append(error)
        if faults:
            raise DataError(f"{faults[0]} ({len(faults)} of {len(used)} pictures are bad)")

    def batch(
        self, paths: Sequence[Path | None], size: int, norm: Norm, *, square: Square | None = None
    ) -> list[Float[Tensor, "3 {size} {size}"] | None]:
        """The normalised float32 pictures of one batch, None where there is none.

        With `square` (an augmentation) every picture is decoded anew and made square by it; none of that is kept.

        Raises:
            DataError: a picture is missing or broken.
        """
        rows = [row for row, path in enumerate(paths) if path is not None]
        result: list[Tensor | None] = [None] * len(paths)
        if rows:
            used = [path for path in paths if path is not None]
            pixels = torch.stack(
                [read_picture(path, size, square=square) if square else self.pixels(path, size) for path in used]
            )
            for row, picture in zip(rows, normalise(pixels, norm), strict=True):
                result[row] = picture
        return result


def squash(picture: Image.Image, size: int) -> Image.Image:
    """The whole picture as a square, bicubic; its proportions are lost.

    Source: the authors' ScienceQA and COCO data sets: torchvision's Resize((size, size), BICUBIC) on a PIL image.
    """
    return picture.resize((size, size), Image.Resampling.BICUBIC)


def augmentation(name: str) -> Square | None:
    """What a name in `AUGMENTATIONS` does to the pictures of a batch, seeded by Python's own generator."""
    if name == "none":
        return None
    chosen = {"crop-flip": crop_and_flip, "crop-flip-rand": crop_flip_and_distort}[name]
    return partial(chosen, rng=Random(random.getrandbits(64)))


def crop_and_flip(picture: Image.Image, size: int, *, rng: Random) -> Image.Image:
    """Crop 50-100 % of the area with sides 3:4 to 4:3, squash that to a square, bicubic, and mirror every second one.

    Source: torchvision's RandomResizedCrop(size, scale=(0.5, 1), BICUBIC) and RandomHorizontalFlip as in ADEM-VL's
    caption training: ten tries, then the largest centred crop of allowed proportions.
    """
    square = squash(picture.crop(_random_box(*picture.size, rng)), size)
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else square


def crop_flip_and_distort(picture: Image.Image, size: int, *, rng: Random) -> Image.Image:
    """As `crop_and_flip`, then RandAugment of two operations at strength 5 of 10; see `distort`."""
    return distort(crop_and_flip(picture, size, rng=rng), rng)


def _random_box(width: int, height: int, rng: Random) -> tuple[int, int, int, int]:
    low, high = 3 / 4, 4 / 3
    for _ in range(10):
        area = width * height * rng.uniform(0.5, 1.0)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    w, h = min(width, round(height * high)), min(height, round(width / low))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def read_picture(path: Path, size: int, *, square: Square = squash) -> UInt8[Tensor, "3 {size} {size}"]:
    """Decode, convert to RGB (transparency is dropped) and make square.

    Raises:
        DataError: the picture is missing or broken, of none of `FORMATS`, or has more than `MOST_PIXELS`.
    """
    try:
        with opened(path) as picture:
            pixels = np.array(square(picture.convert("RGB"), size))
    except FileNotFoundError:
        raise DataError(f"{path}: missing picture; fetch it again") from None
    except BROKEN as error:
        reason = f"not a picture in {', '.join(FORMATS)}" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{path}: picture cannot be decoded ({reason}); fetch it again") from None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def opened(path: Path) -> Image.Image:
    """A picture whose pixels are read when they are used, to be closed by `with`.

    Raises:
        ValueError: it has more than `MOST_PIXELS`.
        OSError, and the others of `BROKEN`: it is missing, broken or of none of `FORMATS`.
    """
    picture = Image.open(path, formats=FORMATS)
    if picture.width * picture.height > MOST_PIXELS:
        picture.close()
        raise ValueError(f"{picture.width:,} x {picture.height:,} pixels are more than {MOST_PIXELS:,}")
    return picture


def normalise(pixels: UInt8[Tensor, "N 3 H W"], norm: Norm) -> Float[Tensor, "N 3 H W"]:
    """(pixels / 255 - mean) / std per channel, in float32."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in norm)
    return pixels.float().div_(255).sub_(mean).div_(std)
