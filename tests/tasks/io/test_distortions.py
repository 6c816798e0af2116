"""RandAugment: which operations there are, how often, and that a generator repeats them."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from PIL import Image, ImageOps

from tasks.io.distortions import distort
from tasks.io.pictures import augmentation

SIZE = 64


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Dim noise, which every operation but those without effect changes."""
    values = np.random.default_rng(0).integers(40, 200, (SIZE, SIZE, 3), dtype=np.uint8)
    return Image.fromarray(values)


def shift(picture: Image.Image, across: int, down: int) -> Image.Image:
    grey = Image.new("RGB", picture.size, (128, 128, 128))
    grey.paste(picture, (across, down))
    return grey


def same(a: Image.Image, b: Image.Image) -> bool:
    return np.array_equal(np.asarray(a), np.asarray(b))


def test_a_picture_stays_as_it_is_as_often_as_the_authors_leave_it(picture: Image.Image) -> None:
    rng = Random(0)
    untouched = sum(same(distort(picture, rng), picture) for _ in range(1000))
    # Each of two draws changes it with probability 0.5 * 7 / 10.
    assert untouched == pytest.approx(1000 * 0.65**2, abs=50)


def test_each_operation_is_among_what_comes_out(picture: Image.Image) -> None:
    rng = Random(0)
    seen = [distort(picture, rng) for _ in range(600)]
    expected = {
        "contrast": [ImageOps.autocontrast(picture)],
        "equalise": [ImageOps.equalize(picture)],
        "shift": [shift(picture, *by) for by in ((5, 0), (-5, 0), (0, 5), (0, -5))],
    }
    for name, pictures in expected.items():
        for one in pictures:
            assert any(same(one, other) for other in seen), name


def test_a_shear_moves_the_far_side_by_its_share(picture: Image.Image) -> None:
    """Sheared rows (or columns) are the old ones, shifted by 0.15 of their place."""
    rng, found = Random(1), set()
    columns = np.asarray(picture).astype(int)
    for _ in range(400):
        made = np.asarray(distort(picture, rng)).astype(int)
        for way in (-1, 1):
            across = round(way * 0.15 * 40)  # of row 40
            if np.array_equal(made[40, 10:50], columns[40, 10 + across : 50 + across]) and not np.array_equal(
                made[20, 10:50], columns[20, 10 + across : 50 + across]
            ):
                found.add(("x", way))
            if np.array_equal(made[10:50, 40], columns[10 + across : 50 + across, 40]) and not np.array_equal(
                made[10:50, 20], columns[10 + across : 50 + across, 20]
            ):
                found.add(("y", way))
    assert found == {("x", -1), ("x", 1), ("y", -1), ("y", 1)}


def test_a_turn_is_of_15_degrees_around_the_middle() -> None:
    bar = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    bar[31:34] = 255  # its middle is where OpenCV has that of the picture
    rng, angles = Random(0), list[float]()
    for _ in range(300):
        made = np.asarray(distort(Image.fromarray(bar), rng))[..., 0]
        left, right = (np.flatnonzero(made[:, column] > 200) for column in (14, 50))
        if made[32, 32] == 255 and len(left) and len(right):
            angles.append(float(np.degrees(np.arctan((right.mean() - left.mean()) / 36))))
    assert all(any(angle == pytest.approx(wanted, abs=1) for angle in angles) for wanted in (-15, 0, 15))
    turned = [abs(angle) for angle in angles if abs(angle) > 1]
    assert sum(angle == pytest.approx(15, abs=1) for angle in turned) > 0.9 * len(turned)


def test_a_generator_repeats_them(picture: Image.Image) -> None:
    first, second = ([distort(picture, rng) for _ in range(20)] for rng in (Random(3), Random(3)))
    assert all(map(same, first, second))
    assert not all(same(one, first[0]) for one in first)


def test_it_comes_after_the_crop_and_keeps_size_and_kind(picture: Image.Image) -> None:
    square = augmentation("crop-flip-rand")
    assert square is not None
    made = [square(picture, 32) for _ in range(20)]
    assert {(one.size, one.mode) for one in made} == {((32, 32), "RGB")}
    assert len({one.tobytes() for one in made}) == 20
