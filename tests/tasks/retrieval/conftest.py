"""A small retrieval data set on disk, and each kind of model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import methods
from tests.tasks.retrieval.examples import randomise
from tests.tiny_beit3 import tiny_beit3

if TYPE_CHECKING:
    from harness.backbones.backbone import Backbone
    from harness.backbones.decoder import DecoderModel


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four training images with two captions each, 12 of val with one and 12 of test with three."""
    counts = {"train": (4, 2), "val": (12, 1), "test": (12, 3)}
    splits = [split for split, (images, _) in counts.items() for _ in range(images)]
    images = [
        {
            "filename": f"{n}.png",
            "imgid": n,
            "split": split,
            "sentences": [{"raw": f"A  picture {n}, seen {k} times ."} for k in range(counts[split][1])],
        }
        for n, split in enumerate(splits)
    ]
    (tmp_path / "dataset_flickr8k.json").write_text(json.dumps({"images": images}))
    for image in images:
        values = np.random.default_rng(int(str(image["imgid"]))).integers(0, 256, (30, 20, 3), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / str(image["filename"]))
    return tmp_path


@pytest.fixture(params=["decoder", "encoder"])
def model(request: pytest.FixtureRequest) -> Iterator[Backbone]:
    """Each kind of tiny backbone; the decoder needs a method to see its images."""
    if request.param == "encoder":
        yield tiny_beit3()
        return
    tiny: DecoderModel = request.getfixturevalue("tiny_model")
    attachment = methods.get("memvp", slots=20, scale=1.0, image_scale=1.0).attach(tiny, 0)
    randomise(attachment)
    yield tiny
    attachment.detach()
