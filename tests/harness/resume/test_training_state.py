"""A kept training state: the same bits back, or a reason."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.resume import randomness, training_state
from harness.resume.training_state import StateError, TrainingState

BELONGS = {"cell": "a" * 64, "code": {"harness": "b"}}


def state(step: int = 3, ended: str | None = None) -> TrainingState:
    return TrainingState(
        step=step,
        weights={"a.weight": torch.randn(2, 3), "a.bias": torch.randn(3).bfloat16()},
        optimizer={"0.step": torch.tensor(3.0), "0.exp_avg": torch.randn(2, 3)},
        scaler={},
        random=randomness.on_cpu(),
        losses=[1.0 / 3.0, 0.1 + 0.2, 1e-300],
        step_ms=[12.5],
        samples=12,
        wall_s=1.25,
        parts=2,
        cut_at=[{"step": 1, "parts": 1}],
        resumed=[1],
        ended=ended,
    )


def test_every_bit_comes_back(tmp_path: Path) -> None:
    kept = state()
    training_state.write(tmp_path / "x", kept, BELONGS)
    found = training_state.read(tmp_path / "x", BELONGS)
    for name, tensor in {**kept.weights, **kept.optimizer, **kept.random.tensors}.items():
        again = {**found.weights, **found.optimizer, **found.random.tensors}[name]
        assert again.dtype == tensor.dtype
        assert torch.equal(again, tensor)
    plain = ("step", "scaler", "losses", "step_ms", "samples", "wall_s", "parts", "cut_at", "resumed", "ended")
    assert [getattr(found, name) for name in plain] == [getattr(kept, name) for name in plain]
    assert [path.name for path in tmp_path.iterdir()] == ["x"], "nothing temporary is left"


def test_the_generators_go_on_where_they_were(tmp_path: Path) -> None:
    random.random(), np.random.rand(3), torch.rand(3)
    training_state.write(tmp_path / "x", state(), BELONGS)
    training_state.write(tmp_path / "y", kept := state(), BELONGS)

    def draw() -> tuple[float, list[float], list[float]]:
        return random.random(), np.random.standard_normal(3).tolist(), torch.randn(3).tolist()

    randomness.restore(kept.random, torch.device("cpu"))
    expected = draw()
    draw()
    randomness.restore(training_state.read(tmp_path / "y", BELONGS).random, torch.device("cpu"))
    assert draw() == expected


def test_an_edited_description_is_told(tmp_path: Path) -> None:
    training_state.write(tmp_path / "x", state(), BELONGS)
    file = tmp_path / "x" / "state.json"
    file.write_text(file.read_text().replace('"samples": 12', '"samples": 13'))
    with pytest.raises(StateError, match=r"state\.json was edited or damaged"):
        training_state.read(tmp_path / "x", BELONGS)


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "empty"])
def test_damage_is_told(name: str, damage: str, tmp_path: Path) -> None:
    training_state.write(tmp_path / "x", state(), BELONGS)
    file = tmp_path / "x" / name
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        flipped = bytes([content[0] ^ 255]) + content[1:]
        file.write_bytes({"cut": content[: len(content) // 2], "flip": flipped, "empty": b""}[damage])
    with pytest.raises(StateError, match=str(tmp_path / "x")):
        training_state.read(tmp_path / "x", BELONGS)


def test_the_state_of_other_code_is_refused(tmp_path: Path) -> None:
    training_state.write(tmp_path / "x", state(), BELONGS)
    with pytest.raises(StateError, match="made with another code"):
        training_state.read(tmp_path / "x", {**BELONGS, "code": {"harness": "c"}})
