"""The captioned pictures of the mini world: form, variety, truth, disjoint splits, caching."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

import harness.backbones.mini
from tasks.io.caption_files import read_captions
from tasks.mini import coco_caption, pairs, retrieval, text
from tasks.mini.world import COLOURS, KINDS, LANDMARKS, NUMBERS, PATTERNS, PLACES, WEATHERS, Scene, sample_scene

SIZES = {"train": 200, "val": 20, "test": 500}
PLURALS = {"balls": "ball", "boxes": "box", "stars": "star", "cones": "cone", "crosses": "cross"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pairs.ensure(tmp_path_factory.mktemp("mini"), **SIZES)


@pytest.fixture(scope="module")
def content(root: Path) -> dict[str, Any]:
    return json.loads((root / "dataset_mini.json").read_text())


def digest(root: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            found.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return found.hexdigest()


def told(caption: str) -> dict[str, str]:
    """The properties that a caption states, by the names of a scene's fields."""
    words = re.findall("[a-z]+", caption)
    values = {"place": PLACES, "weather": WEATHERS, "colour": COLOURS, "pattern": PATTERNS, "number": NUMBERS}
    found = {field: word for field, known in values.items() for word in words if word in known}
    found["kind"] = next(PLURALS[word] for word in words if word in PLURALS)
    for landmark in LANDMARKS:
        if landmark in words:
            side = re.search(rf"{landmark} on the (left|right)", caption)
            found[f"{landmark} side"] = side.group(1) if side else "any"
    return found


def agrees(scene: Scene, facts: dict[str, str]) -> bool:
    for field, value in facts.items():
        if field.endswith(" side"):
            landmark = field.removesuffix(" side")
            if (
                landmark
                not in {"any": (scene.left, scene.right), "left": (scene.left,), "right": (scene.right,)}[value]
            ):
                return False
        elif getattr(scene, field) != value:
            return False
    return True


def test_deterministic_byte_for_byte(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pairs.write(tmp_path / name, train=20, val=3, test=6, seed=seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a") != digest(tmp_path / "c")


def test_read_as_karpathys_files_are(root: Path, content: dict[str, Any]) -> None:
    for split, size in SIZES.items():
        images = read_captions(root, split, limit=None)
        assert len(images) == size
        assert all(len(set(image.captions)) == 5 for image in images)
    sentences = [sentence for image in content["images"] for sentence in image["sentences"]]
    assert [sentence["sentid"] for sentence in sentences] == list(range(5 * sum(SIZES.values())))
    assert [sentence["imgid"] for sentence in sentences] == [
        image["imgid"] for image in content["images"] for _ in "12345"
    ]
    assert all(sentence["tokens"] == re.findall("[a-z]+", sentence["raw"]) for sentence in sentences)
    assert all([s["sentid"] for s in image["sentences"]] == image["sentids"] for image in content["images"])
    with Image.open(next(root.rglob("*.png"))) as picture:
        assert picture.size == (112, 112)


def test_captions_are_true_and_leave_things_out() -> None:
    rng = Random(3)
    counts: Counter[str] = Counter()
    for _ in range(300):
        scene = sample_scene(rng)
        for caption in text.varied_captions(scene, rng):
            facts = told(caption)
            assert agrees(scene, facts), (scene, caption)
            assert len(facts) >= 3
            counts.update("edges" if field.endswith(" side") else field for field in facts)
            if "between them" in caption:
                assert {f"{scene.left} side", f"{scene.right} side"} <= set(facts)
    for field in ("place", "weather", "colour", "pattern", "number"):
        assert 0.3 < counts[field] / 1500 < 0.97, field
    assert counts["kind"] == 1500
    assert set(KINDS) == set(PLURALS.values())


def test_captions_vary_in_form() -> None:
    rng = Random(4)
    forms = set()
    values = {*PLACES, *WEATHERS, *COLOURS, *PATTERNS, *NUMBERS, *LANDMARKS, *PLURALS}
    for _ in range(300):
        for caption in text.varied_captions(sample_scene(rng), rng):
            forms.add(" ".join("_" if word in values else word for word in re.findall(r"[a-z]+|[,.]", caption)))
    assert len(forms) > 200


def test_every_word_is_one_token_and_captions_are_short(content: dict[str, Any]) -> None:
    tokenizer = Path(harness.backbones.mini.__file__).parent / "weights/llm/tokenizer.json"
    known = json.loads(tokenizer.read_text())["model"]["vocab"]
    captions = [sentence["raw"] for image in content["images"] for sentence in image["sentences"]]
    words = {word for caption in captions for word in re.findall("[a-z]+", caption)}
    assert [word for word in words if "Ġ" + word not in known] == []
    # With the end of the text no more than captioning generates.
    assert max(len(re.findall("[a-z]+|[,.]", caption)) for caption in captions) + 1 <= 20
    assert all(re.fullmatch(r"[a-z]+(,? [a-z]+)*\.", caption) for caption in captions)


def test_test_scenes_are_told_apart_by_their_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes: list[Scene] = []
    draw = pairs.render
    monkeypatch.setattr(pairs, "render", lambda scene, seed: scenes.append(scene) or draw(scene, seed))
    pairs.write(tmp_path, train=50, val=10, test=500)
    assert len({text.facts(scene) for scene in scenes}) == len(scenes) == 560
    shown = scenes[60:]
    images = read_captions(tmp_path, "test", limit=None)
    alone, together = 0, 0
    for image in images:
        facts = [told(caption) for caption in image.captions]
        fitting = [{n for n, scene in enumerate(shown) if agrees(scene, one)} for one in facts]
        alone += sum(len(fits) == 1 for fits in fitting)
        together += len(set.intersection(*fitting)) == 1
    assert together > 0.98 * 500
    assert alone > 0.6 * 2500


def test_both_tasks_share_one_cached_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"train": 3, "val": 1, "test": 1}
    first = coco_caption.ensure(tmp_path, **sizes)
    monkeypatch.setattr(pairs, "write", lambda *a, **k: pytest.fail("written twice"))
    assert retrieval.ensure(tmp_path, **sizes) == first
    with pytest.raises(pytest.fail.Exception, match="written twice"):
        retrieval.ensure(tmp_path, **sizes, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


def test_bad_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="negative"):
        pairs.write(tmp_path, train=-1, val=0, test=0)
    with pytest.raises(ValueError, match="unknown splits"):
        pairs.ensure(tmp_path, dev=3)


def test_defaults_are_large_enough_for_a_study() -> None:
    assert pairs.DEFAULT_SIZES == {"train": 4000, "val": 200, "test": 500}
