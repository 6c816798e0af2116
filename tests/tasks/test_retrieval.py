from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import methods
import tasks
from methods import Attachment
from tasks import DataError, Example, Prediction, Task
from tasks.io.retrieval_items import Item, candidates, match_of, ranked_items
from tasks.mini import pairs as mini_pairs
from tasks.retrieval import Embedded, Matched, Pairs, Ranked
from tests.tiny_beit3 import tiny_beit3

if TYPE_CHECKING:
    from harness.backbones.backbone import Backbone
    from harness.backbones.decoder import DecoderModel

RECALLS = ("tr_r1", "tr_r5", "tr_r10", "ir_r1", "ir_r5", "ir_r10")


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


def load(root: Path, split: Any = "test", limit: int | None = None, **options: Any) -> tuple[Task, list[Example]]:
    task = tasks.get("retrieval", **options)
    return task, task.examples(split, root, limit=limit)


def embedded(items: Sequence[Example], vectors: Tensor) -> list[Prediction]:
    return [Embedded(item.id, "", vector=vector) for item, vector in zip(items, vectors, strict=True)]


def one_hot(items: Sequence[Example]) -> Tensor:
    """Every image, and its captions, in a direction of their own."""
    ids = [item.image_id for item in items if isinstance(item, Item)]
    known = sorted(set(ids))
    return torch.eye(len(known))[[known.index(image_id) for image_id in ids]]


def values(task: Task, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, float | None]:
    metrics = task.score(task.conclude(predictions, examples), examples)
    return {name: metric.value for name, metric in metrics.items()}


# Examples ------------------------------------------------------------------------------------------------------


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


# Ranks and scores ----------------------------------------------------------------------------------------------


def test_perfect_features_score_the_maximum(root: Path) -> None:
    task, examples = load(root)
    scores = values(task, embedded(examples, one_hot(examples)), examples)
    assert [scores[name] for name in (*RECALLS, "mean_recall")] == [100] * 7
    assert (scores["tr_median_rank"], scores["ir_median_rank"]) == (1, 1)


def test_shuffled_features_are_near_chance(tmp_path: Path) -> None:
    mini_pairs.write(tmp_path, train=1, val=1, test=200)
    task, examples = load(tmp_path)
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(one_hot(examples) + 0.01 * torch.randn(1200, 200, generator=generator), dim=-1)
    assert values(task, embedded(examples, vectors), examples)["mean_recall"] == 100
    scores = values(task, embedded(examples, vectors[torch.randperm(1200, generator=generator)]), examples)
    assert scores["ir_r10"] == pytest.approx(5, abs=2.5)  # 10 of 200
    assert scores["mean_recall"] == pytest.approx(8 / 3, abs=2)
    assert scores["ir_median_rank"] == pytest.approx(100, abs=15)


@pytest.mark.parametrize("collapsed", ["both", "images", "captions"])
def test_collapsed_features_are_not_above_chance(root: Path, collapsed: str) -> None:
    task, examples = load(root)
    vectors = one_hot(examples)
    images = torch.tensor([example.image is not None for example in examples])
    flat = {"both": torch.ones_like(images), "images": images, "captions": ~images}[collapsed]
    vectors[flat] = F.normalize(torch.ones(12), dim=0)
    scores = values(task, embedded(examples, vectors), examples)
    assert [scores[name] for name in RECALLS] == [0] * 6


def test_order_plays_no_part(root: Path) -> None:
    task, examples = load(root)
    vectors = F.normalize(one_hot(examples) + torch.randn(48, 12, generator=torch.Generator().manual_seed(1)), dim=-1)
    predictions = embedded(examples, vectors)
    ranked = task.conclude(predictions, examples)
    scores = task.score(ranked, examples)
    assert 0 < (scores["mean_recall"].value or 0) < 100
    shuffled, other = random.Random(0).sample(predictions, 48), random.Random(1).sample(examples, 48)
    again = task.conclude(shuffled, other)
    assert {item.id: item for item in again} == {item.id: item for item in ranked}
    assert task.score(random.Random(2).sample(again, 48), other) == scores


def test_records_hold_ranks_and_no_vectors(root: Path) -> None:
    task, examples = load(root)
    ranked = task.conclude(embedded(examples, one_hot(examples)), examples)
    rows = json.loads(json.dumps([dataclasses.asdict(prediction) for prediction in ranked]))
    assert rows[0] == {"id": "16", "output": "", "choice": None, "rank": 1}
    assert task.score([Ranked(**row) for row in rows], examples) == task.score(ranked, examples)


def test_folds_are_ranked_each_among_themselves() -> None:
    generator = torch.Generator().manual_seed(0)
    items = [
        dataclasses.replace(item, fold=int(item.image_id) // 12)
        for item in ranked_items([Item(str(n), Path("x"), ("a",) * (1 + n % 3), str(n)) for n in range(36)])
    ]
    vectors = F.normalize(one_hot(items) + 2 * torch.randn(len(items), 36, generator=generator), dim=-1)
    full, folded = tasks.get("retrieval"), tasks.get("retrieval", protocol="coco-1k")
    predictions = embedded(items, vectors)
    ranked = {prediction.id: prediction for prediction in folded.conclude(predictions, items)}
    parts = []
    for fold in range(3):
        own = [item for item in items if item.fold == fold]
        mine = [prediction for prediction in predictions if prediction.id in {item.id for item in own}]
        assert all(ranked[prediction.id] == prediction for prediction in full.conclude(mine, own))
        parts.append(values(full, mine, own))
    scores = values(folded, predictions, items)
    for name in (*RECALLS, "mean_recall", "tr_median_rank", "ir_median_rank"):
        assert scores[name] == pytest.approx(sum(part[name] or 0 for part in parts) / 3), name
    assert (scores["mean_recall"] or 0) > (values(full, predictions, items)["mean_recall"] or 0)


def test_few_candidates_give_null_with_the_reason(root: Path) -> None:
    task, examples = load(root, limit=4)
    scores = task.score(task.conclude(embedded(examples, one_hot(examples)), examples), examples)
    assert (scores["ir_r1"].value, scores["ir_r5"].value, scores["mean_recall"].value) == (100, None, None)
    assert scores["mean_recall"].reason == "recall at 5 needs 5 images to choose from, there are 4"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["16", "16#0", "16#1"], "no prediction for '16#2'"),
        (["16", "16#0", "16#1", "16#2", "99"], "no example for '99'"),
        (["16", "16#0", "16#1", "16#2", "16#1"], "more than one prediction for '16#1'"),
    ],
)
def test_each_prediction_is_needed_once(root: Path, ids: list[str], message: str) -> None:
    task, examples = load(root)
    own = [example for example in examples if example.id.startswith("16")]
    with pytest.raises(ValueError, match=message):
        task.conclude([Embedded(id, "", vector=torch.ones(2)) for id in ids], own)
    with pytest.raises(ValueError, match=message):
        task.score([Ranked(id, "", rank=1) for id in ids], own)


def test_predictions_of_another_kind_are_refused(root: Path) -> None:
    task, examples = load(root)
    plain = [Prediction(example.id, "") for example in examples]
    with pytest.raises(TypeError, match="expected Embedded predictions, got Prediction for '16'"):
        task.conclude(plain, examples)
    with pytest.raises(TypeError, match="expected Ranked predictions, got Embedded for '16'"):
        task.score(embedded(examples, one_hot(examples)), examples)


def test_captions_and_images_need_each_other(root: Path) -> None:
    _, examples = load(root)
    items = [example for example in examples if isinstance(example, Item)]
    with pytest.raises(ValueError, match=r"the image of caption '16#0' is not among the examples \(3 such captions\)"):
        candidates(items[1:], by_fold=False)
    with pytest.raises(ValueError, match=r"image '16' has no caption among the examples \(12 such images\)"):
        candidates(items[:12], by_fold=False)


# The second stage -----------------------------------------------------------------------------------------------


def noisy(items: Sequence[Example], scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return F.normalize(one_hot(items) + scale * torch.randn(len(items), 12, generator=generator), dim=-1)


def matched(pairs: Sequence[Example], score: Any) -> list[Prediction]:
    return [Matched(pair.id, "", match=score(pair)) for pair in pairs]


def ranks(predictions: Sequence[Prediction]) -> dict[str, int]:
    return {prediction.id: prediction.rank for prediction in predictions if isinstance(prediction, Ranked)}


def belong(pair: Example) -> float:
    image, _, caption = pair.id.partition("|")
    return float(caption.startswith(f"{image}#"))


def test_without_rerank_there_is_one_stage(root: Path) -> None:
    task, examples = load(root)
    assert task.follow_up(embedded(examples, one_hot(examples)), examples) == []
    assert task.needs == {"embed"}


def test_the_second_stage_ranks_the_first_candidates_anew(root: Path) -> None:
    (plain, examples), (task, _) = load(root), load(root, rerank=4)
    assert task.needs == {"embed", "embed.fused"}
    first = embedded(examples, noisy(examples))
    before = ranks(plain.conclude(first, examples))
    assert {1, 4} < set(before.values())
    assert max(before.values()) > 4
    pairs = task.follow_up(first, examples)
    assert 12 * 4 < len(pairs) <= 12 * 4 + 36 * 4
    assert len({pair.id for pair in pairs}) == len(pairs)
    right = ranks(task.conclude([*first, *matched(pairs, belong)], examples))
    assert right == {id: 1 if rank <= 4 else rank for id, rank in before.items()}
    wrong = ranks(task.conclude([*first, *matched(pairs, lambda pair: -belong(pair))], examples))
    assert all(2 <= wrong[id] <= 4 if rank <= 4 else wrong[id] == rank for id, rank in before.items())
    texts = dict(zip((pair.id for pair in pairs), task.texts(pairs, train=False), strict=True))
    image, caption = pairs[0].id.split("|")
    assert texts[pairs[0].id] == (f"A picture {caption[:2]}, seen {caption[-1]} times .", "")
    assert pairs[0].image == root / f"{image}.png"


def test_each_candidate_needs_a_match(root: Path) -> None:
    task, examples = load(root, rerank=2)
    first = embedded(examples, one_hot(examples))
    pairs = task.follow_up(first, examples)
    with pytest.raises(ValueError, match=r"no prediction for '\d+\|\d+#\d', which the second stage needs"):
        task.conclude([*first, *matched(pairs[1:], belong)], examples)


def test_the_second_stage_stays_within_the_fold() -> None:
    items = [
        dataclasses.replace(item, fold=int(item.image_id) // 12)
        for item in ranked_items([Item(str(n), Path("x"), ("a",), str(n)) for n in range(24)])
    ]
    task = tasks.get("retrieval", protocol="coco-1k", rerank=3)
    pairs = task.follow_up(embedded(items, one_hot(items)), items)
    assert {int(pair.id.split("|")[0]) // 12 == int(pair.id.split("|")[1][:-2]) // 12 for pair in pairs} == {True}


# With models ---------------------------------------------------------------------------------------------------


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


def randomise(attachment: Attachment) -> None:
    """Zero-initialised branches become visible."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in attachment.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)


def randomise_head(model: Backbone) -> None:
    """Both sides are no longer mapped alike."""
    assert model.head is not None
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


def predict(task: Task, model: Backbone, examples: Sequence[Example], size: int) -> dict[str, Tensor]:
    found = {}
    for start in range(0, len(examples), size):
        some = examples[start : start + size]
        with torch.inference_mode():
            predictions = task.predict(model, task.batch(model, some, train=False), some)
        found |= {p.id: p.vector for p in predictions if isinstance(p, Embedded)}
    return found


def test_features_do_not_depend_on_the_batch(root: Path, model: Backbone) -> None:
    task, examples = load(root, limit=4)
    model.use_head(lambda: task.head(model), seed=0)
    together, alone = predict(task, model, examples, 16), predict(task, model, examples[::-1], 1)
    assert list(together) == [example.id for example in examples]
    for id, vector in together.items():
        torch.testing.assert_close(alone[id], vector, rtol=0, atol=1e-5)
        assert float(vector.norm()) == pytest.approx(1, abs=1e-5)
    assert len(next(iter(together.values()))) == model.contrast_width
    pictures = torch.stack([together[example.id] for example in examples[:4]])
    assert pictures.std(dim=0).sum() > 1e-4  # the images are told apart


def test_evaluation_from_the_harness(root: Path, model: Backbone) -> None:
    from accelerate import Accelerator

    from harness.evaluate import evaluate

    task, examples = load(root)
    model.use_head(lambda: task.head(model), seed=0)
    results = [
        evaluate(model, task, examples, accelerator=Accelerator(cpu=True), batch_size=size, label="test").predictions
        for size in (5, 48)
    ]
    assert [prediction.id for prediction in results[0]] == [example.id for example in examples]
    assert results[0] == results[1]
    assert task.score(results[0], examples)["mean_recall"].value is not None


def test_untrained_features_compare_hidden_states(root: Path, tiny_model: DecoderModel) -> None:
    task, examples = load(root, limit=3, width=48)
    tiny_model.use_head(lambda: task.head(tiny_model), seed=0)
    found = torch.stack(list(predict(task, tiny_model, examples, 12).values()))
    with torch.inference_mode():
        hidden = F.normalize(tiny_model.embed(task.batch(tiny_model, examples, train=False)), dim=-1)
    torch.testing.assert_close(found @ found.T, hidden @ hidden.T, rtol=0, atol=1e-5)


def test_heads_are_as_wide_as_the_option_or_the_backbones_habit(root: Path, tiny_model: DecoderModel) -> None:
    for width, model, shape in (
        (32, tiny_model, (32, 48)),
        (None, tiny_model, (256, 48)),
        (None, tiny_beit3(), (64, 64)),
    ):
        state = load(root, width=width)[0].head(model).state_dict()
        shapes = {"vision_head.weight": shape, "language_head.weight": shape, "logit_scale": ()}
        assert {name: tuple(tensor.shape) for name, tensor in state.items()} == shapes


def test_heads_of_a_checkpoint_are_taken_and_kept(root: Path) -> None:
    model = tiny_beit3()
    tensors = {f"{side}_head.weight": torch.randn(64, 64) for side in ("vision", "language")}
    model.native_head = {**tensors, "logit_scale": torch.tensor(4.6)}
    task, examples = load(root, "train")
    model.use_head(lambda: task.head(model), seed=0)
    assert model.head is not None
    assert all(torch.equal(value, model.native_head[name]) for name, value in model.head.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.head.parameters())
    pairs = task.batch(model, examples[::2], train=True)
    vectors = predict(task, model, [dataclasses.replace(examples[0], image=None)], 1)
    expected = F.normalize(model.read_texts(pairs.texts)[:1, 0] @ tensors["language_head.weight"].T, dim=-1)
    torch.testing.assert_close(vectors["0#0"][None], expected, rtol=0, atol=1e-5)


def test_loss_is_info_nce_over_the_pairs(root: Path, model: Backbone) -> None:
    task, examples = load(root, "train", temperature=0.5)
    model.use_head(lambda: task.head(model), seed=0)
    batch = task.batch(model, examples, train=True)
    assert isinstance(batch, Pairs)
    assert (task.weight(batch), batch.image_ids) == (8, tuple("00112233"))
    heads: Any = model.head
    images = F.normalize(heads.vision_head(model.embed(batch.images)), dim=-1)
    texts = F.normalize(heads.language_head(model.embed(batch.texts)), dim=-1)
    logits = images @ texts.T / 0.5
    # The two pairs of an image, 2p and 2p + 1, are not held against each other.
    other = torch.arange(8) + torch.tensor([1, -1] * 4)
    masked = logits.index_put((torch.arange(8), other), torch.tensor(-math.inf))
    for negatives, scores in ((False, masked), (True, logits)):
        ways = [F.cross_entropy(scores, torch.arange(8)), F.cross_entropy(scores.T, torch.arange(8))]
        for direction, expected in (("image", ways[0]), ("text", ways[1]), ("both", sum(ways) / 2)):
            chosen = tasks.get("retrieval", same_image_negatives=negatives, direction=direction)
            torch.testing.assert_close(chosen.loss(model, batch), expected)


def test_gradients_reach_heads_scale_and_method(root: Path, tiny_model: DecoderModel) -> None:
    attachment = methods.get("memvp", slots=20, scale=1.0, image_scale=1.0).attach(tiny_model, 0)
    randomise(attachment)
    task, examples = load(root, "train")
    tiny_model.use_head(lambda: task.head(tiny_model), seed=0)
    task.loss(tiny_model, task.batch(tiny_model, examples, train=True)).backward()
    assert tiny_model.head is not None
    trained = [*tiny_model.head.parameters(), *attachment.parameters()]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tiny_model.head.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in attachment.parameters())
    declared = {id(parameter) for parameter in trained}
    assert all(p.grad is None for p in tiny_model.parameters() if id(p) not in declared)


def test_evaluation_sees_what_training_saw(root: Path, model: Backbone) -> None:
    task, examples = load(root, "train")
    model.use_head(lambda: task.head(model), seed=0)
    randomise_head(model)
    batch = task.batch(model, examples, train=True)
    images = [item for item in examples[::2] if isinstance(item, Item)]
    found = predict(task, model, ranked_items([dataclasses.replace(item, id=item.image_id) for item in images]), 8)
    heads: Any = model.head
    pictures, texts = (
        side(model.embed(part))[::2] for side, part in ((heads.images, batch.images), (heads.texts, batch.texts))
    )
    for number, image in enumerate(images):
        torch.testing.assert_close(found[image.image_id], pictures[number].detach(), rtol=0, atol=1e-5)
        torch.testing.assert_close(found[image.id], texts[number].detach(), rtol=0, atol=1e-5)


def test_training_tells_pairs_apart(root: Path, model: Backbone) -> None:
    task, examples = load(root, "train")
    model.use_head(lambda: task.head(model), seed=0)
    assert model.head is not None
    optimizer = torch.optim.AdamW(model.head.parameters(), lr=1e-2)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = task.loss(model, task.batch(model, examples, train=True))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.4 * losses[0]


def fused_model(tiny_model: DecoderModel, task: Task) -> None:
    attachment = methods.get("memvp", slots=20, scale=1.0, image_scale=1.0).attach(tiny_model, 0)
    randomise(attachment)
    tiny_model.use_head(lambda: task.head(tiny_model), seed=0)


def test_matches_are_trained_beside_the_contrast(root: Path, tiny_model: DecoderModel) -> None:
    (plain, examples), (task, _) = load(root, "train"), load(root, "train", rerank=2)
    fused_model(tiny_model, task)
    heads: Any = tiny_model.head
    batch = task.batch(tiny_model, examples, train=True)
    similarity = heads.images(tiny_model.embed(batch.images)) @ heads.texts(tiny_model.embed(batch.texts)).T
    for pair in range(8):
        similarity[pair, pair // 2 * 2 : pair // 2 * 2 + 2] = -math.inf  # the captions of the same image
    hardest = similarity.argmax(dim=1).tolist()
    pictures = [picture for _, picture in zip(examples, batch.images.pixel_values, strict=True)]
    terms = []
    for chosen, target in ((range(8), 1.0), (hardest, 0.0)):
        texts = [task.texts(examples, train=True)[place][0] for place in chosen]
        hidden = tiny_model.embed(tiny_model.encode(texts, answers=None, images=pictures))
        odds = heads.match_head(hidden).squeeze(1)
        terms.append(F.binary_cross_entropy_with_logits(odds, torch.full((8,), target)))
    expected = plain.loss(tiny_model, plain.batch(tiny_model, examples, train=True)) + sum(terms) / 2
    loss = task.loss(tiny_model, batch)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert heads.match_head.weight.grad.abs().sum() > 0


def test_training_tells_matches_from_mismatches(root: Path, tiny_model: DecoderModel) -> None:
    task, examples = load(root, "train", rerank=2)
    attachment = methods.get("lora", tokens=4, dropout=0.0).attach(tiny_model, 0)
    tiny_model.use_head(lambda: task.head(tiny_model), seed=0)
    assert tiny_model.head is not None
    optimizer = torch.optim.AdamW([*tiny_model.head.parameters(), *attachment.parameters()], lr=5e-3)
    batch = task.batch(tiny_model, examples, train=True)
    for _ in range(120):
        optimizer.zero_grad()
        task.loss(tiny_model, batch).backward()
        optimizer.step()
    images = [item for item in examples[::2] if isinstance(item, Item)]
    pairs = [match_of(image, item) for image in images for item in examples if isinstance(item, Item)]
    with torch.inference_mode():
        found = task.predict(tiny_model, task.batch(tiny_model, pairs, train=False), pairs)
    odds = torch.tensor([one.match for one in found if isinstance(one, Matched)]).view(4, 8)
    own = torch.tensor([[item.id[0] == image.id[0] for item in examples] for image in images])
    assert float(odds[own].min()) > float(odds[~own].max())
    attachment.detach()


def test_captions_of_one_image_alone_teach_no_mismatch(root: Path, tiny_model: DecoderModel) -> None:
    task, examples = load(root, "train", rerank=2)
    fused_model(tiny_model, task)
    loss = task.loss(tiny_model, task.batch(tiny_model, examples[:2], train=True))
    assert math.isfinite(float(loss.detach()))


def test_both_stages_from_the_harness(root: Path, tiny_model: DecoderModel, tmp_path: Path) -> None:
    from accelerate import Accelerator

    from harness.evaluate import evaluate
    from harness.resume.answers import KeptAnswers

    task, examples = load(root, rerank=3)
    plain, _ = load(root)
    fused_model(tiny_model, task)

    def run(task: Task, size: int, kept: KeptAnswers | None = None) -> dict[str, int]:
        accelerator = Accelerator(cpu=True)
        found = evaluate(
            tiny_model, task, examples, accelerator=accelerator, batch_size=size, label="test", kept=kept
        ).predictions
        assert [prediction.id for prediction in found] == [example.id for example in examples]
        return ranks(found)

    one, two = run(plain, 8), run(task, 8)
    assert all((after <= 3) == (before <= 3) for before, after in zip(one.values(), two.values(), strict=True))
    assert one != two
    assert run(task, 5) == two  # whatever the batches
    path = tmp_path / "answers"
    with KeptAnswers(path, {}, task, pytest.fail) as kept:
        assert run(task, 8, kept) == two
    tiny_model.head = None  # from here on nothing can be predicted
    with KeptAnswers(path, {}, task, pytest.fail) as kept:
        assert len(kept) > 48 / 8
        assert run(task, 8, kept) == two


def test_a_backbone_that_reads_no_image_with_its_text_is_skipped(root: Path, tiny_model: DecoderModel) -> None:
    task, _ = load(root, rerank=1)
    assert task.needs - tiny_model.offers == set()
    assert task.needs - tiny_beit3().offers == {"embed.fused"}


@pytest.mark.parametrize("norm", ["clip", "imagenet", "backbone"])
def test_batch_carries_normalised_pictures(root: Path, tiny_model: DecoderModel, norm: str) -> None:
    task, examples = load(root, image_norm=norm)
    mean, std = {
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        "backbone": (tiny_model.image_mean, tiny_model.image_std),
    }[norm]
    chosen = [examples[12], examples[0]]  # a caption, and an image
    batch = task.batch(tiny_model, chosen, train=False)
    with Image.open(root / "16.png") as picture:
        squashed = np.asarray(picture.convert("RGB").resize((56, 56), Image.Resampling.BICUBIC))
    expected = ((squashed / 255 - np.array(mean)) / np.array(std)).transpose(2, 0, 1)
    np.testing.assert_allclose(batch.pixel_values[0].numpy(), expected, atol=1e-6)
    assert batch.image_rows.tolist() == [1]


def test_augmentation_is_for_training_and_repeats_with_the_seed(root: Path, tiny_model: DecoderModel) -> None:
    plain, pairs = load(root, "train")
    task, ranked = load(root, augment="crop-flip")

    def pictures(task: Task, examples: Sequence[Example], *, train: bool, seed: int = 0) -> Tensor:
        random.seed(seed)
        batch = task.batch(tiny_model, examples, train=train)
        return (batch.images if train else batch).pixel_values

    first, again, other = (pictures(task, pairs, train=True, seed=seed) for seed in (0, 0, 1))
    whole = pictures(plain, pairs, train=True)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, whole)
    assert torch.equal(whole[0], whole[1])  # two captions of one picture
    assert torch.equal(pictures(task, ranked, train=False), pictures(plain, ranked, train=False))


def test_without_heads_there_is_a_clear_error(root: Path, tiny_model: DecoderModel) -> None:
    task, examples = load(root, "train")
    with pytest.raises(ValueError, match="retrieval needs its heads on the model"):
        task.loss(tiny_model, task.batch(tiny_model, examples, train=True))
    with pytest.raises(ValueError, match="retrieval needs its heads on the model"):
        task.predict(tiny_model, task.batch(tiny_model, examples, train=False), examples)


def test_one_pair_cannot_be_told_apart(root: Path, tiny_model: DecoderModel) -> None:
    task, examples = load(root, "train")
    tiny_model.use_head(lambda: task.head(tiny_model), seed=0)
    with pytest.raises(ValueError, match=r"one pair has no negatives .*; raise train\.batch_size"):
        task.loss(tiny_model, task.batch(tiny_model, examples[:1], train=True))


def test_features_that_are_no_numbers_are_refused(root: Path, tiny_model: DecoderModel) -> None:
    task, examples = load(root)
    tiny_model.use_head(lambda: task.head(tiny_model), seed=0)
    assert tiny_model.head is not None
    with torch.no_grad():
        for parameter in tiny_model.head.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(ValueError, match="the feature of '16' is not a number; the training diverged"):
        task.predict(tiny_model, task.batch(tiny_model, examples[:2], train=False), examples[:2])
