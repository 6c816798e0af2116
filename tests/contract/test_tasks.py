"""Every registered task through one conformance suite, on small data of the mini world."""

from __future__ import annotations

import importlib
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import tasks
from tasks import Example, Prediction, Task
from tasks.io.java import find_java

if TYPE_CHECKING:
    from harness.backbones.decoder import DecoderModel

SIZES = {"train": 12, "val": 12, "test": 30}
BEST = {"scienceqa": 100.0, "coco_caption": 300.0, "retrieval": 100.0}
"""What perfect predictions score at least on the primary metric (CIDEr has no fixed maximum)."""
CHANCE = {"scienceqa": 60.0, "coco_caption": 100.0, "retrieval": 50.0}
"""What shuffled ones score at most, on 30 examples."""


@pytest.fixture(scope="session", params=tasks.names())
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, Path]:
    name = request.param
    root = tmp_path_factory.mktemp("with a space") / name
    importlib.import_module(f"tasks.mini.{name}").write(root, **SIZES)
    return tasks.get(name), root


def scienceqa_truth(examples: Sequence[Any]) -> list[Prediction]:
    return [Prediction(id=q.id, output="", choice=q.answer) for q in examples]


def caption_truth(examples: Sequence[Any]) -> list[Prediction]:
    return [Prediction(id=image.id, output=image.captions[0]) for image in examples]


def retrieval_truth(examples: Sequence[Any]) -> list[Prediction]:
    from tasks.retrieval import Embedded

    numbers = {image_id: number for number, image_id in enumerate(dict.fromkeys(item.image_id for item in examples))}
    axes = torch.eye(len(numbers))
    return [Embedded(item.id, "", vector=axes[numbers[item.image_id]]) for item in examples]


TRUTHS: dict[str, Callable[[Sequence[Any]], list[Prediction]]] = {
    "scienceqa": scienceqa_truth,
    "coco_caption": caption_truth,
    "retrieval": retrieval_truth,
}


def name_of(task: Task) -> str:
    return type(task).__module__.rpartition(".")[2]


def primary(task: Task, predictions: list[Prediction], examples: list[Example]) -> float:
    if name_of(task) == "coco_caption" and find_java() is None:
        pytest.skip("caption scores need Java: install the extra `captions`")
    value = task.score(task.conclude(predictions, examples), examples)[task.primary].value
    assert value is not None
    return value


def test_perfect_predictions_score_the_maximum_and_shuffled_ones_near_chance(case: tuple[Task, Path]) -> None:
    task, root = case
    examples = task.examples("test", root, limit=None)
    truth = TRUTHS[name_of(task)](examples)
    assert primary(task, truth, examples) >= BEST[name_of(task)]
    swapped: dict[str, Prediction] = {}
    for pictured, part in ((True, 2), (False, 3)):  # a caption to be ranked stays one, and does not follow its image
        own = [p for p, e in zip(truth, examples, strict=True) if (e.image is not None) == pictured]
        others = own[len(own) // part :] + own[: len(own) // part]
        swapped |= {mine.id: replace(other, id=mine.id) for mine, other in zip(own, others, strict=True)}
    shuffled = [swapped[prediction.id] for prediction in truth]
    assert primary(task, shuffled, examples) <= CHANCE[name_of(task)]


def test_scores_do_not_depend_on_the_order(case: tuple[Task, Path]) -> None:
    task, root = case
    examples = task.examples("test", root, limit=None)
    predictions = TRUTHS[name_of(task)](examples)
    wrong = [replace(predictions[1], id=predictions[0].id), *predictions[1:]]
    mixed = random.Random(0).sample(list(zip(wrong, examples, strict=True)), len(examples))
    assert primary(task, [p for p, _ in mixed], [e for _, e in mixed]) == pytest.approx(primary(task, wrong, examples))


def test_parts_by_example_have_the_primary_score_as_their_mean(case: tuple[Task, Path]) -> None:
    task, root = case
    examples = task.examples("test", root, limit=None)
    truth = TRUTHS[name_of(task)](examples)
    wrong = [replace(truth[3], id=truth[0].id), replace(truth[4], id=truth[1].id), *truth[2:]]
    expected = primary(task, wrong, examples)
    found = task.example_scores(task.conclude(wrong, examples), examples)
    assert set(found) == {example.id for example in examples}
    assert statistics.fmean(part.value for part in found.values()) == pytest.approx(expected, abs=1e-9)
    pictures = {example.id for example in examples if "#" not in example.id}  # not the captions to be ranked
    assert {part.group for part in found.values()} == pictures


def test_scores_of_a_part_are_those_of_its_examples(case: tuple[Task, Path]) -> None:
    task, root = case
    examples = task.examples("test", root, limit=None)
    truth = TRUTHS[name_of(task)](examples)
    subsets = task.subsets(examples)
    assert set().union(*subsets.values()) <= {example.id for example in examples}
    if not subsets:
        return
    wrong = [replace(truth[3], id=truth[0].id), *truth[1:]]
    scores, parts = task.score(wrong, examples), task.example_scores(wrong, examples)
    for name, ids in subsets.items():
        metric = scores[f"{task.primary}_{name}"]
        assert metric.n == len(ids)
        assert not ids or metric.value == pytest.approx(statistics.fmean(parts[id].value for id in ids))


def test_splits_are_disjoint_and_limits_nested(case: tuple[Task, Path]) -> None:
    task, root = case
    ids = [{example.id for example in task.examples(split, root, limit=None)} for split in ("train", "val", "test")]
    assert not ids[0] & ids[1]
    assert not ids[0] & ids[2]
    assert not ids[1] & ids[2]
    few, more = ({example.id for example in task.examples("train", root, limit=limit)} for limit in (3, 6))
    assert few < more < ids[0]


def test_a_missing_prediction_is_refused(case: tuple[Task, Path]) -> None:
    task, root = case
    examples = task.examples("test", root, limit=None)
    truth = TRUTHS[name_of(task)](examples)
    with pytest.raises(ValueError, match=r"prediction"):
        task.score(task.conclude(truth[1:], examples), examples)


def test_a_model_learns_it(case: tuple[Task, Path], tiny_model: DecoderModel) -> None:
    """The loss reaches what a method trains, and the task's own parameters; a few steps lower it."""
    import methods

    task, root = case
    examples = task.examples("train", root, limit=6)[:6]
    attachment = methods.get("lora").attach(tiny_model, 0)
    attachment.keep(tiny_model.use_head(lambda: task.head(tiny_model), seed=0))
    own = [] if tiny_model.head is None else list(tiny_model.head.parameters())
    batch = task.batch(tiny_model, examples, train=True)
    optimizer = torch.optim.AdamW([*attachment.parameters(), *own], lr=1e-2)
    losses = []
    for _ in range(8):
        loss = task.loss(tiny_model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert task.weight(batch) >= 1
    assert losses[-1] < losses[0]
    assert all(p.grad is not None for p in own)
