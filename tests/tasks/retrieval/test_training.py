"""Retrieval's training: the losses of pairs and of matches, and what they teach."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import methods
import tasks
from tasks import Example, Task
from tasks.io.retrieval_items import Item, match_of, ranked_items
from tasks.retrieval import Matched, Pairs
from tests.tasks.retrieval.examples import fused_model, load, predict, randomise

if TYPE_CHECKING:
    from harness.backbones.backbone import Backbone
    from harness.backbones.decoder import DecoderModel


def randomise_head(model: Backbone) -> None:
    """Both sides are no longer mapped alike."""
    assert model.head is not None
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


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
