"""The augmentation of pictures: what it may cut out, and that it repeats with its generator."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.io.pictures import CLIP, PictureMemory, crop_and_flip, squash

SIZE = 64


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right and green downwards, so that a pixel tells where it comes from."""
    red = np.tile(np.linspace(0, 255, width), (height, 1))
    green = np.tile(np.linspace(0, 255, height)[:, None], (1, width))
    return Image.fromarray(np.stack([red, green, np.zeros_like(red)], axis=2).round().astype(np.uint8))


def extent(square: Image.Image) -> tuple[float, float, bool]:
    """The shares of the width and height that a crop of the gradient shows, and whether it is mirrored."""
    pixels = np.asarray(square, dtype=float)
    across, down = (pixels[:, -1, 0] - pixels[:, 0, 0]).mean(), (pixels[-1, :, 1] - pixels[0, :, 1]).mean()
    return abs(across) / 255, down / 255, across < 0


def test_crops_keep_half_of_the_area_and_bounded_proportions() -> None:
    picture, rng = gradient(400, 300), Random(0)
    seen = [extent(crop_and_flip(picture, SIZE, rng=rng)) for _ in range(200)]
    areas = [across * down for across, down, _ in seen]
    ratios = [across * 400 / (down * 300) for across, down, _ in seen]
    assert 0.46 < min(areas) < 0.56
    assert 0.9 < max(areas) <= 1
    assert 0.72 < min(ratios) < 0.8
    assert 1.25 < max(ratios) < 1.38
    assert 70 < sum(mirrored for _, _, mirrored in seen) < 130


def test_pictures_too_long_for_any_crop_give_their_centre() -> None:
    across, down, _ = extent(crop_and_flip(gradient(600, 60), SIZE, rng=Random(0)))
    assert across == pytest.approx(80 / 600, abs=0.01)
    assert down > 0.97


def test_a_generator_repeats_its_crops(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    gradient(40, 30).save(path)
    memory = PictureMemory()
    batches = [memory.batch([path, None, path], 16, CLIP, square=partial(crop_and_flip, rng=Random(3))) for _ in "ab"]
    first, second = batches[0][0], batches[0][2]
    assert first is not None
    assert second is not None
    assert not torch.equal(first, second)
    assert batches[0][1] is None
    for one, other in zip(*batches, strict=True):
        assert one is other or torch.equal(one, other)  # type: ignore[arg-type]
    # What is kept is the whole picture.
    plain = memory.batch([path], 16, CLIP, square=squash)[0]
    assert torch.equal(memory.batch([path], 16, CLIP)[0], plain)  # type: ignore[arg-type]
