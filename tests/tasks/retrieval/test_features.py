"""Retrieval with models: what features they give, in whatever batches, and both stages of an evaluation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from tasks import Task
from tests.tasks.retrieval.examples import fused_model, load, predict, ranks
from tests.tiny_beit3 import tiny_beit3

if TYPE_CHECKING:
    from harness.backbones.backbone import Backbone
    from harness.backbones.decoder import DecoderModel


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


def test_features_that_are_no_numbers_are_refused(root: Path, tiny_model: DecoderModel) -> None:
    task, examples = load(root)
    tiny_model.use_head(lambda: task.head(tiny_model), seed=0)
    assert tiny_model.head is not None
    with torch.no_grad():
        for parameter in tiny_model.head.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(ValueError, match="the feature of '16' is not a number; the training diverged"):
        task.predict(tiny_model, task.batch(tiny_model, examples[:2], train=False), examples[:2])
