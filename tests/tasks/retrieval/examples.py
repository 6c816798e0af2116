"""Examples of a small retrieval data set, and answers to them: given ones and those of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import methods
import tasks
from methods import Attachment
from tasks import Example, Prediction, Task
from tasks.io.retrieval_items import Item
from tasks.retrieval import Embedded, Ranked

if TYPE_CHECKING:
    from harness.backbones.backbone import Backbone
    from harness.backbones.decoder import DecoderModel


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


def ranks(predictions: Sequence[Prediction]) -> dict[str, int]:
    return {prediction.id: prediction.rank for prediction in predictions if isinstance(prediction, Ranked)}


def randomise(attachment: Attachment) -> None:
    """Zero-initialised branches become visible."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in attachment.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)


def predict(task: Task, model: Backbone, examples: Sequence[Example], size: int) -> dict[str, Tensor]:
    found = {}
    for start in range(0, len(examples), size):
        some = examples[start : start + size]
        with torch.inference_mode():
            predictions = task.predict(model, task.batch(model, some, train=False), some)
        found |= {p.id: p.vector for p in predictions if isinstance(p, Embedded)}
    return found


def fused_model(tiny_model: DecoderModel, task: Task) -> None:
    attachment = methods.get("memvp", slots=20, scale=1.0, image_scale=1.0).attach(tiny_model, 0)
    randomise(attachment)
    tiny_model.use_head(lambda: task.head(tiny_model), seed=0)
