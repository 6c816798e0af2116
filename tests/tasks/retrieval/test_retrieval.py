"""Retrieval: which examples a data set gives, and which options are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tasks
from tasks import DataError, Example
from tasks.io.retrieval_items import Item
from tests.tasks.retrieval.examples import embedded, load, one_hot, values


def test_training_has_every_pair_once(root: Path) -> None:
    task, examples = load(root, "train")
    assert [example.id for example in examples] == [f"{n}#{k}" for n in range(4) for k in range(2)]
    assert task.texts(examples[:2], train=True) == [
        ("A picture 0, seen 0 times .", ""),
        ("A picture 0, seen 1 times .", ""),
    ]
    assert all(example.image == root / f"{example.id[0]}.png" for example in examples)


def test_evaluation_has_every_image_and_every_caption(root: Path) -> None:
    task, examples = load(root)
    images = [str(n) for n in range(16, 28)]
    assert [example.id for example in examples] == [*images, *(f"{image}#{k}" for image in images for k in range(3))]
    assert [example.image is not None for example in examples] == [True] * 12 + [False] * 36
    texts = task.texts(examples, train=False)
    assert texts[0] == ("a picture of", "")
    assert texts[-1] == ("A picture 27, seen 2 times .", "")
    assert len(task.examples("val", root, limit=None)) == 24
    assert (task.primary, task.needs, task.divisible) == ("mean_recall", {"embed"}, False)


def test_limits_count_images(root: Path) -> None:
    _, five = load(root, limit=5)
    _, three = load(root, limit=3)
    assert (len(five), len(three)) == (20, 12)
    assert three[:3] == five[:3]
    assert len(load(root, "train", limit=3)[1]) == 6


def test_ids_that_an_image_and_a_caption_share_are_refused(tmp_path: Path) -> None:
    names = ("a.png", "a#0.png")  # the second's id is that of the first's caption
    entries = [{"image": name, "caption": ["a ball"]} for name in names]
    (tmp_path / "coco_karpathy_test.json").write_text(json.dumps(entries))
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"image id 'a#0' comes more than once \(1 such ids\)"):
        load(tmp_path)


def test_a_thousand_images_make_a_fold(tmp_path: Path) -> None:
    images = [
        {"filename": f"{n}.png", "imgid": n, "split": "test", "sentences": [{"raw": f"picture {n}"}]}
        for n in reversed(range(5000))
    ]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    for n in range(5000):
        (tmp_path / f"{n}.png").touch()
    _, examples = load(tmp_path, protocol="coco-1k")
    folds = {example.id: example.fold for example in examples if isinstance(example, Item)}
    assert folds == {f"{n}{end}": 4 - n // 1000 for n in range(5000) for end in ("", "#0")}  # the file counts down
    assert load(tmp_path, limit=5000, protocol="coco-1k")[1] == examples
    with pytest.raises(DataError, match=r"coco-1k needs 5000 images of test, there are 100; use --set retrieval.pro"):
        load(tmp_path, limit=100, protocol="coco-1k")


def test_training_needs_no_thousands_of_images(root: Path) -> None:
    assert len(load(root, "train", protocol="coco-1k")[1]) == 8


def test_prepare_finds_broken_pictures(root: Path) -> None:
    task, examples = load(root)
    (root / "20.png").write_bytes(b"?")
    with pytest.raises(DataError, match=r"20\.png: picture cannot be decoded .* \(1 of 12 pictures are bad\)"):
        task.prepare(examples, image_size=8)


def test_refuses_examples_of_another_task() -> None:
    with pytest.raises(TypeError, match="retrieval ranks images and captions, got Example '1'"):
        tasks.get("retrieval").texts([Example(id="1", image=None)], train=True)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("split", "train", r"split cannot be 'train'; known: test, val"),
        ("protocol", "coco1k", r"protocol cannot be 'coco1k'; did you mean 'coco-1k'\?"),
        ("direction", "images", r"direction cannot be 'images'; did you mean 'image'\?"),
        ("augment", "crop", r"augment cannot be 'crop'; did you mean 'crop-flip'"),
        ("image_norm", "clipp", r"image_norm cannot be 'clipp'; did you mean 'clip'\?"),
        ("same_image_negatives", "yes", r"same_image_negatives cannot be 'yes'; known: False, True"),
        ("width", 0, "width must be at least 1, got 0"),
        ("rerank", -1, "rerank must be at least 0, got -1"),
        ("temperature", 0.0, "temperature must be above 0, got 0.0"),
        ("image_prompt", " ", "image_prompt must not be blank"),
        ("holdout", 0.5, "holdout must be from 0 to below 0.5, got 0.5"),
    ],
)
def test_refuses_bad_option_values(option: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tasks.get("retrieval", **{option: value})


@pytest.mark.realdata
def test_reads_the_real_data(shared: Path) -> None:
    task, train = load(shared / "data/flickr8k", "train")
    _, test = load(shared / "data/flickr8k", "test")
    images = [item for item in test if item.image is not None]
    assert len(train) == 3765
    assert len(test) > len(images) > 100
    perfect = values(task, embedded(test, one_hot(test)), test)
    assert perfect["mean_recall"] == 100
