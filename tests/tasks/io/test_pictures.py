from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tasks import DataError
from tasks.io.pictures import CLIP, IMAGENET, Norm, PictureMemory, normalise, read_picture

SIZE = 12


def noise(path: Path, *, mode: str = "RGB", seed: int = 0) -> Path:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (30, 17, *channels), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize("norm", [IMAGENET, CLIP])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_batch_is_the_direct_computation(tmp_path: Path, mode: str, norm: Norm) -> None:
    path = noise(tmp_path / "ein bild é.png", mode=mode)
    with Image.open(path) as picture:
        squashed = np.asarray(picture.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    expected = ((squashed / 255 - np.array(norm.mean)) / np.array(norm.std)).transpose(2, 0, 1)
    [actual] = PictureMemory().batch([path], SIZE, norm)
    assert actual is not None
    assert actual.dtype == torch.float32
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-6)


def test_batch_keeps_rows_without_picture(tmp_path: Path) -> None:
    paths = [noise(tmp_path / f"{seed}.png", seed=seed) for seed in range(2)]
    rows = PictureMemory().batch([None, paths[0], None, paths[1]], SIZE, CLIP)
    assert [row is None for row in rows] == [True, False, True, False]
    for row, path in ((1, paths[0]), (3, paths[1])):
        alone = normalise(read_picture(path, SIZE)[None], CLIP)[0]
        torch.testing.assert_close(rows[row], alone, rtol=0, atol=0)


def test_batch_without_any_picture() -> None:
    assert PictureMemory().batch([None, None], SIZE, CLIP) == [None, None]


def test_normalise_leaves_its_input() -> None:
    pixels = torch.full((1, 3, 2, 2), 200, dtype=torch.uint8)
    normalise(pixels, CLIP)
    assert bool((pixels == 200).all())


def test_decodes_once_within_the_limit(tmp_path: Path) -> None:
    path = noise(tmp_path / "a.png")
    memory = PictureMemory()
    first = memory.pixels(path, SIZE).clone()
    path.unlink()
    assert torch.equal(memory.pixels(path, SIZE), first)


def test_sizes_are_kept_apart(tmp_path: Path) -> None:
    path = noise(tmp_path / "a.png")
    memory = PictureMemory()
    assert memory.pixels(path, 4).shape == (3, 4, 4)
    assert memory.pixels(path, 6).shape == (3, 6, 6)


def test_keeps_nothing_beyond_the_limit(tmp_path: Path) -> None:
    kept, beyond = noise(tmp_path / "a.png"), noise(tmp_path / "b.png")
    memory = PictureMemory(byte_limit=3 * SIZE * SIZE)
    memory.check([kept, beyond], SIZE)
    kept.unlink()
    beyond.unlink()
    memory.pixels(kept, SIZE)
    with pytest.raises(DataError, match="missing picture"):
        memory.pixels(beyond, SIZE)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_broken_pictures(tmp_path: Path, suffix: str) -> None:
    path = noise(tmp_path / f"a b.{suffix}")
    whole = path.read_bytes()
    for content in (b"", b"no picture at all", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(DataError) as error:
            read_picture(path, SIZE)
        assert str(error.value).startswith(f"{path}: picture cannot be decoded (")
        assert str(error.value).count(str(path)) == 1


def test_check_names_the_first_bad_picture_and_counts(tmp_path: Path) -> None:
    good = noise(tmp_path / "good.png")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"?")
    missing = tmp_path / "missing.png"
    with pytest.raises(DataError) as error:
        PictureMemory().check([good, None, broken, missing, broken], SIZE)
    assert str(error.value).startswith(f"{broken}: picture cannot be decoded (not a picture in BMP, GIF, ")
    assert "(2 of 3 pictures are bad)" in str(error.value)


def test_a_picture_with_too_many_pixels_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = noise(tmp_path / "a.png")
    monkeypatch.setattr("tasks.io.pictures.MOST_PIXELS", 17 * 30)
    read_picture(path, SIZE)
    monkeypatch.setattr("tasks.io.pictures.MOST_PIXELS", 17 * 30 - 1)
    with pytest.raises(DataError, match=r"17 x 30 pixels are more than 509\); fetch it again"):
        read_picture(path, SIZE)


def test_a_checked_picture_is_not_read_again(tmp_path: Path) -> None:
    path = noise(tmp_path / "good.png")
    expected = read_picture(path, SIZE)
    memory = PictureMemory()
    memory.check([path, None], SIZE)
    path.unlink()
    assert torch.equal(memory.pixels(path, SIZE), expected)
