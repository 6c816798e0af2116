"""Features kept on disk: one computation per picture, the same bits each time, only where training does not matter."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import methods
from harness.backbones.decoder import DecoderModel
from harness.backbones.features import FeatureStore, picture_keys
from harness.plan import TrainOptions
from harness.train import ways
from tasks import Example
from tests.full_disk import files_up_to


class Tower:
    """Doubles pixels into two tokens and counts the pictures it saw."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, pixels: Tensor) -> Tensor:
        self.seen += len(pixels)
        return pixels.flatten(1).unflatten(1, (2, -1)) * 2


def pictures(*values: float) -> Tensor:
    return torch.stack([torch.full((3, 2, 2), float(value)) for value in values])


def read(store: FeatureStore, tower: Tower, *values: float) -> Tensor:
    pixels = pictures(*values)
    return store.features(pixels, picture_keys(pixels), tower)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    made = FeatureStore(tmp_path / "a folder", capacity=3)
    yield made
    made.close()


def test_a_picture_is_computed_once(store: FeatureStore) -> None:
    tower = Tower()
    first = read(store, tower, 1, 2, 1)
    assert tower.seen == 2
    torch.testing.assert_close(first[:, 0, 0], torch.tensor([2.0, 4.0, 2.0]), rtol=0, atol=0)
    mixed = read(store, tower, 3, 2, 1, 3)
    assert tower.seen == 3
    torch.testing.assert_close(mixed[:, 1, 3], torch.tensor([6.0, 4.0, 2.0, 6.0]), rtol=0, atol=0)
    assert torch.equal(read(store, tower, 2, 3), mixed[[1, 0]])
    assert tower.seen == 3


def test_pictures_beyond_the_capacity_are_computed_anew(store: FeatureStore) -> None:
    tower = Tower()
    read(store, tower, 1, 2, 3, 4)
    assert torch.equal(read(store, tower, 4, 1)[:, 0, 0], torch.tensor([8.0, 2.0]))
    assert tower.seen == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_is_left_on_the_disk(dtype: torch.dtype, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, capacity=4)
    pixels = pictures(1, 2)
    made = store.features(pixels, picture_keys(pixels), lambda given: given.flatten(2).to(dtype))
    assert made.dtype == dtype
    assert torch.equal(store.features(pixels, picture_keys(pixels), lambda given: given), made)
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, tower, real = FeatureStore(tmp_path, capacity=4, name="x"), Tower(), os.pwrite
    first = read(store, tower, 1)

    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    assert torch.equal(read(store, tower, 1, 2, 3)[:, 0, 0], torch.tensor([2.0, 4.0, 6.0]))
    monkeypatch.setattr(os, "pwrite", real)
    assert torch.equal(read(store, tower, 2, 1)[:, 0, 0], torch.tensor([4.0, 2.0]))
    assert tower.seen == 4, "of the second picture nothing is kept, of the first all"
    store.close()
    again = FeatureStore(tmp_path, capacity=4, name="x")
    assert torch.equal(read(again, tower, 1), first)
    assert tower.seen == 4
    again.close()


def test_a_disk_that_is_too_small_from_the_start_costs_only_time(tmp_path: Path) -> None:
    store, tower = FeatureStore(tmp_path, capacity=100_000, name="x"), Tower()
    with files_up_to(10_000):
        assert torch.equal(read(store, tower, 1, 2)[:, 0, 0], torch.tensor([2.0, 4.0]))
        assert torch.equal(read(store, tower, 2, 1)[:, 0, 0], torch.tensor([4.0, 2.0]))
    assert tower.seen == 4
    store.close()


def test_a_cache_that_cannot_be_written_is_told_and_costs_only_time(
    tiny_model: DecoderModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path / "a file"))
    attachment = methods.get("llava").attach(tiny_model, 0)
    with ways(tiny_model, TrainOptions(steps=1), [Example("1", tmp_path / "x.png")], name="x"):
        assert seen_pictures(tiny_model, 1) == 2
    attachment.detach()
    err = capsys.readouterr().err
    assert f"{tmp_path / 'a file' / 'features'}: cannot be written (" in err
    assert len(err.splitlines()) == 1


def seen_pictures(model: DecoderModel, steps: int) -> int:
    counts: list[int] = []
    hook = model.vision.register_forward_hook(lambda _, args, __: counts.append(len(args[0])))
    image = torch.randn(3, model.image_size, model.image_size, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        model.loss(model.encode(["what?", "who?"], answers=["a cat", "a dog"], images=[image, image]))
    hook.remove()
    return sum(counts)


@pytest.mark.parametrize(
    ("name", "fields", "pictures_seen"),
    [
        ("llava", {}, 1),
        ("memvp", {"slots": 16, "vision_adapter": 0}, 1),
        ("memvp", {"slots": 16}, 6),
    ],
)
def test_only_features_that_training_leaves_alone_are_kept(
    name: str, fields: dict[str, int], pictures_seen: int, tiny_model: DecoderModel, tmp_path: Path
) -> None:
    attachment = methods.get(name, **fields).attach(tiny_model, 0)
    handle = tiny_model.keep_features(tmp_path, pictures=5)
    assert seen_pictures(tiny_model, 3) == pictures_seen
    handle.remove()
    assert seen_pictures(tiny_model, 1) == 2
    attachment.detach()
    again = tiny_model.keep_features(tmp_path, pictures=5)
    again.remove()


def test_a_tower_that_trains_is_not_kept(tiny_model: DecoderModel, tmp_path: Path) -> None:
    thaw = tiny_model.unfreeze("vision")
    attachment = methods.get("llava").attach(tiny_model, 0)
    handle = tiny_model.keep_features(tmp_path, pictures=5)
    assert seen_pictures(tiny_model, 2) == 4
    for part in (handle, thaw):
        part.remove()
    attachment.detach()
