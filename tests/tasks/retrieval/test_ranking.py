"""Retrieval without a model: ranks and scores of given features, and the second stage."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import tasks
from tasks import Example, Prediction
from tasks.io.retrieval_items import Item, candidates, ranked_items
from tasks.mini import pairs as mini_pairs
from tasks.retrieval import Embedded, Matched, Ranked
from tests.tasks.retrieval.examples import embedded, load, one_hot, ranks, values

RECALLS = ("tr_r1", "tr_r5", "tr_r10", "ir_r1", "ir_r5", "ir_r10")


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
