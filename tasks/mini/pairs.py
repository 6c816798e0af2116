"""Writes captioned pictures of the mini world in Karpathy's form: dataset_mini.json and images/, for two tasks.

Deterministic byte for byte. Scenes are uniform, so that a method that never sees a picture can say little that is
right, and no two pictures show the same scene, within or across splits.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from . import text
from .folder import all_sizes, ensure_folder, split_sizes
from .render import render
from .world import VERSION as WORLD_VERSION
from .world import Scene, sample_scene

VERSION = f"{WORLD_VERSION}.1"
"""Of the data set; goes up whenever its bytes change."""

DEFAULT_SIZES: dict[str, int] = {"train": 4000, "val": 200, "test": 500}
"""Pictures per split."""

CAPTIONS = 5
"""Of each picture."""


def write(root: Path, *, train: int, val: int, test: int, seed: int = 0) -> None:
    """Write the data set of the given split sizes into `root`, which is created and should be empty.

    Raises:
        ValueError: a negative split size.
    """
    sizes = split_sizes(train=train, val=val, test=test)
    rng, shown = Random(seed), set[str]()
    images: list[dict[str, object]] = []
    for split, size in sizes.items():
        folder = root / "images" / split
        folder.mkdir(parents=True, exist_ok=True)
        for _ in range(size):
            scene = _new_scene(rng, shown)
            image = _image(scene, len(images), split, rng)
            render(scene, seed).save(folder / str(image["filename"]), compress_level=1)
            images.append(image)
    content = json.dumps({"dataset": "mini", "images": images}, indent=1)
    (root / "dataset_mini.json").write_text(content + "\n", encoding="utf-8")


def ensure(cache_root: Path, *, seed: int = 0, **sizes: int) -> Path:
    """The folder of the data set of these sizes (by default DEFAULT_SIZES), written on first use.

    Raises:
        ValueError: an unknown split, or a negative size.
    """
    wanted = all_sizes(DEFAULT_SIZES, sizes)
    key = [VERSION, wanted, seed]
    return ensure_folder(cache_root, "mini-pairs", key, lambda folder: write(folder, **wanted, seed=seed))


def _new_scene(rng: Random, shown: set[str]) -> Scene:
    while True:
        scene = sample_scene(rng)
        key = text.facts(scene)
        if key not in shown:
            shown.add(key)
            return scene


def _image(scene: Scene, number: int, split: str, rng: Random) -> dict[str, object]:
    ids = range(number * CAPTIONS, (number + 1) * CAPTIONS)
    sentences = [
        {"raw": caption, "tokens": caption.strip(".").replace(",", "").split(), "imgid": number, "sentid": id}
        for caption, id in zip(text.varied_captions(scene, rng, CAPTIONS), ids, strict=True)
    ]
    return {
        "filepath": split,
        "filename": f"{number:06}.png",
        "imgid": number,
        "split": split,
        "sentids": list(ids),
        "sentences": sentences,
    }
