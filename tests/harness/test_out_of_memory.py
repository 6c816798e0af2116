"""Memory that runs out: the same loss from smaller parts, or a reason that names the ways out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

import methods
from harness.backbones.decoder import DecoderModel
from harness.evaluate import evaluate
from harness.out_of_memory import OutOfMemory, ran_out, wanted
from harness.plan import TrainOptions
from harness.train import TrainResult, train
from tasks import Example, Prediction
from tests.harness.test_train import Echo

CPU_ERROR = (
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4398046511104 bytes. Error code 12 (Cannot allocate memory)"
)


def test_what_torch_raises_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert ran_out(caught.value)
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"))
    assert ran_out(RuntimeError("could not create a primitive"))
    assert ran_out(RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported asynchronously"))
    assert ran_out(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not ran_out(RuntimeError("CUDA error: device-side assert triggered"))
    assert wanted(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")) == (
        "another 2.00 GiB"
    )
    assert wanted(RuntimeError(CPU_ERROR)) == "another 4,194,304 MiB"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Greedy(Echo):
    """Runs out of memory on batches above a size, from a certain loss on."""

    fits: int = 8
    spared: int = 0
    calls: list[int] = dataclasses.field(default_factory=list)

    def loss(self, model: Any, batch: Any) -> torch.Tensor:
        self.calls.append(len(batch.input_ids))
        if len(batch.input_ids) > self.fits and len(self.calls) > self.spared:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
        return super().loss(model, batch)

    def predict(self, model: Any, batch: Any, examples: Sequence[Example]) -> list[Prediction]:
        if len(examples) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
        return super().predict(model, batch, examples)


def run(model: DecoderModel, task: Greedy) -> tuple[TrainResult, dict[str, torch.Tensor]]:
    attachment = methods.get("memvp", slots=16, scale=1.0, dropout=0.0, vision_dropout=0.0).attach(model, 0)
    result = train(
        model,
        attachment,
        task,
        task.examples("train", Path(), limit=None),
        TrainOptions(steps=4, batch_size=8, lr=1e-2),
        accelerator=Accelerator(cpu=True),
        seed=0,
        label="test",
    )
    state = {name: tensor.clone() for name, tensor in attachment.state_dict().items()}
    attachment.detach()
    return result, state


@pytest.mark.parametrize(("fits", "spared", "cuts"), [(4, 0, [1]), (3, 0, [1, 2]), (1, 0, [1, 2, 4]), (4, 2, [1])])
def test_the_losses_are_those_of_the_whole_batch(
    fits: int, spared: int, cuts: list[int], tiny_model: DecoderModel
) -> None:
    whole, weights = run(tiny_model, Greedy())
    result, found = run(tiny_model, Greedy(fits=fits, spared=spared))
    assert result.losses == pytest.approx(whole.losses, rel=1e-5)
    assert [cut["parts"] for cut in result.cut_at] == cuts
    assert {cut["step"] for cut in result.cut_at} == {spared + 1}
    assert result.parts == 2 * cuts[-1]
    assert whole.cut_at == []
    for name, tensor in weights.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_single_example_that_does_not_fit_is_told(tiny_model: DecoderModel) -> None:
    with pytest.raises(OutOfMemory, match=r"at step 1 with a single example \(another 2.00 GiB\); set train.checkp"):
        run(tiny_model, Greedy(fits=0))


def test_a_contrastive_batch_is_not_cut(tiny_model: DecoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Greedy, "divisible", False)
    with pytest.raises(OutOfMemory, match="contrasts the examples of a whole batch"):
        run(tiny_model, Greedy(fits=4))


def test_other_errors_stay_what_they_are(tiny_model: DecoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> torch.Tensor:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(Greedy, "loss", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(tiny_model, Greedy())


@pytest.mark.parametrize(("fits", "sizes"), [(8, []), (4, [4]), (3, [2, 4]), (1, [1, 2, 4])])
def test_an_evaluation_goes_on_in_halves(fits: int, sizes: list[int], tiny_model: DecoderModel) -> None:
    task = Greedy(fits=fits)
    examples = task.examples("test", Path(), limit=None)
    found = evaluate(tiny_model, task, examples, accelerator=Accelerator(cpu=True), batch_size=8, label="test")
    assert [prediction.id for prediction in found.predictions] == [example.id for example in examples]
    assert sorted(set(found.halved)) == sizes
    with pytest.raises(OutOfMemory, match="a single example"):
        evaluate(tiny_model, Greedy(fits=0), examples, accelerator=Accelerator(cpu=True), batch_size=8, label="test")
