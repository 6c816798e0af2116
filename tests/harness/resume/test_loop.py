"""From a running training to its state and back: all of it, or nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from harness.resume import randomness
from harness.resume.loop import Loop
from harness.resume.randomness import Randomness
from harness.resume.training_state import StateError, TrainingState


def loop(seed: int) -> Loop:
    torch.manual_seed(seed)
    trained = {"a": nn.Parameter(torch.randn(2, 2)), "b": nn.Parameter(torch.randn(2))}
    accelerator = Accelerator(cpu=True)
    optimizer = accelerator.prepare(torch.optim.AdamW(list(trained.values())))
    sum(p.square().sum() for p in trained.values()).backward()  # type: ignore[union-attr]
    optimizer.step()
    return Loop(trained, optimizer, accelerator)


def state(of: Loop) -> TrainingState:
    rest: dict[str, Any] = {"step_ms": [1.0], "samples": 2, "wall_s": 1.0, "parts": 1, "cut_at": [], "resumed": []}
    return of.state(randomness.on_cpu(), step=1, losses=[1.0], ended=None, **rest)


def everything(of: Loop) -> list[Tensor]:
    moments = [t for part in of.optimizer.state_dict()["state"].values() for t in part.values()]
    return [*(p.detach().clone() for p in of.trained.values()), *map(torch.clone, moments), torch.get_rng_state()]


def test_everything_goes_on() -> None:
    first = loop(1)
    kept, expected = state(first), everything(first)
    second = loop(2)
    second.restore(kept)
    assert all(torch.equal(a, b) for a, b in zip(everything(second), expected, strict=True))


BAD: dict[str, dict[str, Any]] = {
    "parameters": {"weights": {"a": torch.zeros(2, 2)}},
    "no fractions": {"weights": {"a": torch.zeros(2, 2, dtype=torch.int64), "b": torch.zeros(2)}},
    "another parameter's moments": {"optimizer": {f"7.{key}": torch.zeros(2) for key in ("step", "exp_avg")}},
    "no number": {"optimizer": {"x.step": torch.tensor(1.0)}},
    "steps": {"losses": [1.0, 2.0]},
    "no generators": {"random": Randomness({}, {})},
    "other generators": {"random": Randomness({"python": [3, [1], None], "numpy": {}}, {"torch_cpu": torch.zeros(3)})},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_a_state_that_does_not_fit_changes_nothing(change: dict[str, Any]) -> None:
    kept = dataclasses.replace(state(loop(1)), **change)
    other = loop(2)
    before = everything(other)
    with pytest.raises(StateError):
        other.restore(kept)
    assert all(torch.equal(a, b) for a, b in zip(everything(other), before, strict=True))
