"""The training loop: schedule, parameter groups, exact accumulation, order, divergence."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

import methods
from harness.backbones.decoder import DecoderModel
from harness.plan import TrainOptions
from harness.train import DivergedError, Step, ahead, lr_factor, order, parameter_groups, total_steps, train, ways
from methods import Attachment
from tasks import Example, Metric, Prediction, Task
from tests.attaching import runs_of_last_layer

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Echo(Task):
    """Repeat the id; answers differ in length, so that micro-batches differ in labelled tokens."""

    def examples(self, split: Any, root: Path, *, limit: int | None) -> list[Example]:
        return [Example(str(number), None) for number in range(8)]

    def texts(self, examples: Sequence[Example], *, train: bool) -> list[tuple[str, str]]:
        return [(f"say {e.id}:", "x" * (1 + 3 * int(e.id)) if train else "") for e in examples]

    def batch(self, model: Any, examples: Sequence[Example], *, train: bool) -> Any:
        texts = self.texts(examples, train=train)
        answers = [answer for _, answer in texts] if train else None
        return model.encode([prompt for prompt, _ in texts], answers=answers, images=[None] * len(texts))

    def loss(self, model: Any, batch: Any) -> torch.Tensor:
        return model.loss(batch)  # type: ignore[no-any-return]

    def predict(self, model: Any, batch: Any, examples: Sequence[Example]) -> list[Prediction]:
        return [Prediction(e.id, "") for e in examples]

    def score(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, Metric]:
        return {"accuracy": Metric(0.0, "%", "max", len(examples), 0)}


def options(**changes: Any) -> TrainOptions:
    return TrainOptions(**{"steps": 4, "batch_size": 8, "lr": 1e-2, "warmup": 0.0, **changes})


def run(model: DecoderModel, changes: dict[str, Any], seed: int = 0) -> tuple[list[float], Attachment]:
    attachment = methods.get("memvp", slots=16, scale=1.0, dropout=0.0, vision_dropout=0.0).attach(model, 0)
    task = Echo()
    result = train(
        model,
        attachment,
        task,
        task.examples("train", Path(), limit=None),
        options(**changes),
        accelerator=Accelerator(cpu=True),
        seed=seed,
        label="test",
    )
    return result.losses, attachment


def test_warm_up_rises_from_zero_and_cosine_ends_at_zero() -> None:
    chosen = options(steps=20, warmup=0.1)
    rates = [lr_factor(step, total=20, options=chosen) for step in range(21)]
    assert rates[:3] == [0.0, 0.5, 1.0]
    assert rates[11] == pytest.approx(0.5 * (1 + math.cos(math.pi * 9 / 18)))
    assert rates[20] == pytest.approx(0.0)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_the_papers_rate_follows_the_batch_size() -> None:
    assert TrainOptions(epochs=20).peak_lr == pytest.approx(1.125e-3)


def test_epochs_count_whole_batches() -> None:
    chosen = TrainOptions(epochs=3, batch_size=32)
    assert total_steps(100, chosen) == 9
    assert total_steps(10, chosen) == 3
    assert total_steps(10, options(steps=7)) == 7


def test_no_decay_on_biases_and_one_dimensional_parameters(tiny_model: DecoderModel) -> None:
    attachment = methods.get("memvp", slots=16).attach(tiny_model, 0)
    decayed, plain = parameter_groups(dict(attachment.named_parameters()), options())
    names = {id(parameter): name for name, parameter in attachment.named_parameters()}
    assert {names[id(p)] for p in plain["params"]} == {"adapter_proj.fc1.bias", "adapter_proj.fc2.bias"}  # type: ignore[attr-defined]
    assert "adapter_emb1" in {names[id(p)] for p in decayed["params"]}  # type: ignore[attr-defined]
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.02, 0.0)


def test_every_epoch_visits_each_example_once_in_a_new_order() -> None:
    batches = list(order([7] * 10, 5, steps=4, seed=0))
    first, second = batches[0] + batches[1], batches[2] + batches[3]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert batches == list(order([7] * 10, 5, steps=4, seed=0)) != list(order([7] * 10, 5, steps=4, seed=1))


def test_an_incomplete_batch_is_dropped_unless_it_is_the_only_one() -> None:
    assert [len(batch) for batch in order([1] * 3, 8, steps=2, seed=0)] == [3, 3]
    assert [len(batch) for batch in order([1] * 11, 4, steps=4, seed=0)] == [4, 4, 4, 4]


def test_batches_hold_texts_of_similar_length() -> None:
    lengths = [number % 100 for number in range(400)]
    spreads = [max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in order(lengths, 8, steps=50, seed=0)]
    assert sum(spreads) / len(spreads) < 15


def test_accumulation_is_the_whole_batch(tiny_model: DecoderModel) -> None:
    whole, first = run(tiny_model, {})
    states = [first.state_dict()]
    first.detach()
    parts, second = run(tiny_model, {"accumulate": 4})
    assert parts == pytest.approx(whole, rel=1e-4)
    for name, tensor in second.state_dict().items():
        torch.testing.assert_close(tensor, states[0][name], rtol=1e-3, atol=1e-4)
    assert whole[-1] < whole[0]


def test_one_seed_one_result(tiny_model: DecoderModel) -> None:
    losses, attachment = run(tiny_model, {"batch_size": 4}, seed=3)
    state = {name: tensor.clone() for name, tensor in attachment.state_dict().items()}
    attachment.detach()
    again, attachment = run(tiny_model, {"batch_size": 4}, seed=3)
    assert again == losses
    assert all(torch.equal(state[name], tensor) for name, tensor in attachment.state_dict().items())
    attachment.detach()
    assert run(tiny_model, {"batch_size": 4}, seed=4)[0] != losses


def test_clipping_bounds_the_step(tiny_model: DecoderModel) -> None:
    free, attachment = run(tiny_model, {"lr": 1e-1})
    attachment.detach()
    clipped, _ = run(tiny_model, {"lr": 1e-1, "clip_norm": 1e-9})
    assert clipped[0] == free[0]
    assert clipped[-1] > free[-1]


def test_divergence_names_the_step(tiny_model: DecoderModel) -> None:
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) at step \d+ of 30; lower train.lr"):
        run(tiny_model, {"lr": 1e30, "steps": 30})


def test_a_last_update_that_breaks_the_weights_is_noticed(tiny_model: DecoderModel) -> None:
    attachment = methods.get("llava").attach(tiny_model, 0)
    task = Echo()

    def break_weights(step: Step) -> None:
        next(iter(attachment.parameters())).data.fill_(torch.inf)

    with pytest.raises(
        DivergedError, match="a trained weight is not a finite number after step 1 of 1; lower train.lr"
    ):
        train(
            tiny_model,
            attachment,
            task,
            task.examples("train", Path(), limit=None),
            options(steps=1),
            accelerator=Accelerator(cpu=True),
            seed=0,
            label="test",
            after_step=break_weights,
        )


def test_options_are_part_of_the_record() -> None:
    assert dataclasses.asdict(options())["steps"] == 4


def test_recomputed_activations_give_the_same_losses(tiny_model: DecoderModel) -> None:
    runs = runs_of_last_layer(tiny_model)
    plain, attachment = run(tiny_model, {})
    attachment.detach()
    assert len(runs) == 4
    with ways(tiny_model, options(checkpointing=True)):
        other, attachment = run(tiny_model, {})
    attachment.detach()
    assert len(runs) == 4 + 8, "each backward pass has run it again"
    assert other == pytest.approx(plain, rel=1e-5)
    assert run(tiny_model, {})[0] == plain
    assert len(runs) == 4 + 8 + 4


# In a process of its own: the checks of shapes that conftest.py puts into functions are nothing that dynamo can trace.
COMPILED = """
import sys
from pathlib import Path
import torch
import methods
from harness import backbones
from harness.backbones import BackboneSpec
from harness.plan import TrainOptions
from harness.train import ways

llm, vision = sys.argv[1:3]
model = backbones.load(BackboneSpec("tiny", llm=llm, vision=vision))
attachment = methods.get("ademvl", scales=(16, 4), alpha=1.0, beta=1.0, vision_dropout=0.0).attach(model, 0)
image = torch.randn(3, 56, 56, generator=torch.Generator().manual_seed(0))
batch = model.encode(["what is it?", "who?"], answers=["a cat", "dogs"], images=[image, None])
def step():
    loss = model.loss(batch)
    grads = torch.autograd.grad(loss, list(attachment.module.adapter_proj.parameters()))
    return loss.item(), torch.cat([grad.flatten() for grad in grads])
plain = step()
with ways(model, TrainOptions(steps=1, compile=True)):
    compiled = step()
assert abs(plain[0] - compiled[0]) <= 1e-5 * plain[0], (plain[0], compiled[0])
torch.testing.assert_close(plain[1], compiled[1], rtol=1e-4, atol=1e-6)
torch.compiler.reset()
inputs = model.inputs(batch)
whole = torch.compile(model.llm.model, fullgraph=True, backend="eager")
found = whole(inputs_embeds=inputs.embeds, use_cache=False).last_hidden_state
torch.testing.assert_close(found, model.hidden(inputs), rtol=1e-4, atol=1e-5)
print("the same")
"""


@pytest.mark.slow
def test_a_compiled_step_is_the_same_and_a_methods_forward_traces_whole(tiny_folders: tuple[Path, Path]) -> None:
    command = [sys.executable, "-c", COMPILED, *map(str, tiny_folders)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.stdout == "the same\n", done.stderr[-2000:]


def test_batches_are_made_ahead_in_order_and_errors_arrive() -> None:
    made: list[int] = []

    def make(item: int) -> int:
        made.append(item)
        if item == 3:
            raise ValueError("three")
        return item * item

    results = ahead(make, iter([0, 1, 2, 3, 4]))
    assert [next(results), next(results), next(results)] == [(0, 0), (1, 1), (2, 4)]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert made[:4] == [0, 1, 2, 3]
    assert list(ahead(make, iter([]))) == []
