"""The fast step and the slow way are one training: the same losses for every method."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

import methods
import tasks
from harness import backbones
from harness.backbones import BackboneSpec
from harness.backbones.decoder import DecoderModel
from harness.bench import naive
from harness.plan import TrainOptions
from harness.recipes import load as load_recipe
from harness.train import train
from methods.kernels.memory_read import reference
from tasks import Example
from tasks.mini import scienceqa as mini_scienceqa

STEPS = 50
FIELDS = load_recipe("mini").methods


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    root = tmp_path_factory.mktemp("mini")
    mini_scienceqa.write(root, train=48, val=4, test=4, seed=0)
    return tasks.get("scienceqa").examples("train", root, limit=None)


def mini() -> DecoderModel:
    model = backbones.load(BackboneSpec("mini"))
    assert isinstance(model, DecoderModel)
    return model


def losses(model: DecoderModel, attachment: methods.Attachment, examples: list[Example], tmp_path: Path) -> list[float]:
    options = TrainOptions(steps=STEPS, batch_size=4, lr=1e-3)
    handle = model.keep_features(tmp_path, pictures=len(examples))
    try:
        result = train(
            model,
            attachment,
            tasks.get("scienceqa"),
            examples,
            options,
            accelerator=Accelerator(cpu=True),
            seed=3,
            label="test",
        )
    finally:
        handle.remove()
    return result.losses


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in methods.names() if methods.load(name).trains])
def test_fifty_steps_give_the_same_losses(name: str, examples: list[Example], tmp_path: Path) -> None:
    method = methods.get(name, **FIELDS.get(name, {}))
    fast, slow = mini(), naive.NaiveDecoder.of(mini())
    quick = losses(fast, method.attach(fast, 0), examples, tmp_path)
    expected = losses(slow, naive.attach(method, slow, 0), examples, tmp_path)
    assert expected[-1] < expected[0]
    torch.testing.assert_close(torch.tensor(quick), torch.tensor(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.57, 0.9])
def test_a_full_sort_drops_what_the_reference_drops(ratio: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, keys, values = (torch.randn(2, n, 8, generator=generator).double() for n in (5, 20, 20))
    keys[:, 10:] = keys[:, :10]  # every score twice: ties
    torch.testing.assert_close(naive.read_adem(x, keys, values, ratio), reference.adem(x, keys, values, ratio))


def test_choices_are_scored_alike_one_by_one() -> None:
    fast, slow = mini(), naive.NaiveDecoder.of(mini())
    images = [torch.randn(3, fast.image_size, fast.image_size), None]
    prompts = ["Question: what is red? Answer:", "Answer:"]
    scores = [
        model.continuation_logprobs(
            model.encode(prompts, answers=None, images=images), [["A", "the ball"], ["B", "a box"]]
        )
        for model in (fast, slow)
    ]
    torch.testing.assert_close(torch.tensor(scores[0]), torch.tensor(scores[1]), rtol=1e-4, atol=1e-4)
