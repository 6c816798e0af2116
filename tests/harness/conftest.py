"""Data that tests of this folder share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """COCO as it is published: captions of train and val, of two pictures and twelve, and none of test."""
    for split, numbers in (("train", range(2)), ("val", range(2, 14))):
        (tmp_path / f"{split}2017").mkdir()
        for n in numbers:
            Image.new("RGB", (8, 8), (20 * n, 0, 0)).save(tmp_path / f"{split}2017/{n}.png")
        content = {
            "images": [{"id": n, "file_name": f"{n}.png"} for n in numbers],
            "annotations": [{"image_id": n, "caption": f"picture {n}"} for n in numbers],
        }
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / f"annotations/captions_{split}2017.json").write_text(json.dumps(content))
    return tmp_path
