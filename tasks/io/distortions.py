"""RandAugment: a picture distorted by operations drawn at random (Cubuk et al. 2020, in BLIP's form)."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from PIL import Image, ImageOps

DRAWN = 2
"""Operations for each picture, with replacement; each of them is done every second time."""
SHEAR, SHIFT, TURN = 0.15, 5, 15
"""Strength 5 of 10: a share of the side, pixels whatever the size of the picture, degrees; either way."""
GREY = (128, 128, 128)
"""What comes in from outside."""

Distortion = Callable[[Image.Image, int], Image.Image]
"""What it makes of a picture; the number is 1 or -1, the way of a movement."""


def distort(picture: Image.Image, rng: Random) -> Image.Image:
    """Two of ten operations, of which three do nothing at this strength: the factor of brightness and sharpness is 1.

    Source: RandomAugment(2, 5) of ADEM-VL's util/randaugment.py, which is BLIP's. Deviations: Pillow instead of OpenCV,
    whose interpolation rounds otherwise; another generator.
    """
    for operation in rng.choices(_OPERATIONS, k=DRAWN):
        if rng.random() < 0.5:
            picture = operation(picture, rng.choice((-1, 1)))
    return picture


def _as_it_is(picture: Image.Image, way: int) -> Image.Image:
    return picture


def _contrast(picture: Image.Image, way: int) -> Image.Image:
    return ImageOps.autocontrast(picture)


def _equalise(picture: Image.Image, way: int) -> Image.Image:
    return ImageOps.equalize(picture)


def _turn(picture: Image.Image, way: int) -> Image.Image:
    width, height = picture.size
    middle = (width / 2 + 0.5, height / 2 + 0.5)  # of OpenCV, for which the first pixel is at 0
    return picture.rotate(way * TURN, Image.Resampling.BILINEAR, center=middle, fillcolor=GREY)


def _shear_x(picture: Image.Image, way: int) -> Image.Image:
    return _moved(picture, (1, way * SHEAR, -way * SHEAR / 2, 0, 1, 0))


def _shear_y(picture: Image.Image, way: int) -> Image.Image:
    return _moved(picture, (1, 0, 0, way * SHEAR, 1, -way * SHEAR / 2))


def _shift_x(picture: Image.Image, way: int) -> Image.Image:
    return _moved(picture, (1, 0, way * SHIFT, 0, 1, 0))


def _shift_y(picture: Image.Image, way: int) -> Image.Image:
    return _moved(picture, (1, 0, 0, 0, 1, way * SHIFT))


def _moved(picture: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """Each pixel from where the matrix says, for which the first one is at 0.5."""
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=GREY)


_IDENTITY = _BRIGHTNESS = _SHARPNESS = _as_it_is
_OPERATIONS: tuple[Distortion, ...] = (
    *(_IDENTITY, _contrast, _BRIGHTNESS, _SHARPNESS, _equalise),
    *(_shear_x, _shear_y, _shift_x, _shift_y, _turn),
)
