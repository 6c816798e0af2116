"""Every registered method through the conformance suite on an encoder of both modalities, a tiny BEiT-3."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import methods
from harness.backbones.beit3.model import EncoderModel
from methods import Attachment, Batch
from tests.attaching import TEXTS, pictures, randomise
from tests.tiny_beit3 import tiny_beit3

FIELDS = {"lora": {"target_modules": ("q_proj", "v_proj", "fc1")}, "blind": {"of": "mwa"}}
TRAINED = ["blind", "full", "lora", "mwa"]
REFUSED = {"ademvl": "llm.ffn", "memvp": "llm.ffn", "llava": "llm.input"}


@pytest.fixture
def model() -> EncoderModel:
    return tiny_beit3()


def attach(name: str, model: EncoderModel, seed: int = 0) -> Attachment:
    return methods.get(name, **FIELDS.get(name, {})).attach(model, seed)


def make_batch(model: EncoderModel, rows: tuple[int, ...] = (0, 1, 2)) -> Batch:
    images = [*pictures(2), None]
    return model.encode([TEXTS[row] for row in rows], answers=None, images=[images[row] for row in rows])


def test_the_suite_covers_every_method() -> None:
    own = {name for name in methods.names() if methods.load(name).__module__.startswith("methods.")}
    assert own == {"frozen", *TRAINED, *REFUSED}


@pytest.mark.parametrize("name", REFUSED)
def test_a_method_for_decoders_is_refused_with_the_site_it_lacks(name: str, model: EncoderModel) -> None:
    reason = methods.get(name).unmet(model)
    assert reason is not None
    assert "tiny-beit3 offers no" in reason
    assert REFUSED[name] in reason


@pytest.mark.parametrize("name", ["frozen", *TRAINED])
def test_detach_gives_the_encoder_back_bit_for_bit(name: str, model: EncoderModel) -> None:
    assert methods.get(name, **FIELDS.get(name, {})).unmet(model) is None
    before = model.embed(make_batch(model))
    attachment = attach(name, model)
    randomise(attachment)
    changed = model.embed(make_batch(model))
    assert torch.equal(changed, before) == (name == "frozen")
    attachment.detach()
    assert torch.equal(model.embed(make_batch(model)), before)
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", TRAINED)
def test_only_declared_parameters_receive_gradients(name: str, model: EncoderModel) -> None:
    attachment = attach(name, model)
    randomise(attachment)
    model.embed(make_batch(model)).square().sum().backward()
    declared = {id(parameter) for parameter in attachment.parameters()}
    assert all(p.grad is None for p in model.parameters() if id(p) not in declared)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in attachment.parameters())


@pytest.mark.parametrize("name", TRAINED)
def test_state_survives_a_round_trip(name: str, model: EncoderModel) -> None:
    first = attach(name, model)
    randomise(first)
    expected, state = model.embed(make_batch(model)), {key: t.clone() for key, t in first.state_dict().items()}
    first.detach()
    second = attach(name, model, seed=7)
    second.load_state_dict(state)
    assert torch.equal(model.embed(make_batch(model)), expected)


@pytest.mark.parametrize("name", TRAINED)
def test_a_row_does_not_depend_on_its_batch(name: str, model: EncoderModel) -> None:
    randomise(attach(name, model), 0.1)
    together = model.embed(make_batch(model))
    for row in range(3):
        torch.testing.assert_close(model.embed(make_batch(model, (row,)))[0], together[row], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", TRAINED)
def test_a_tiny_batch_is_overfitted(name: str, model: EncoderModel) -> None:
    def miss(model: EncoderModel, target: Tensor) -> Tensor:
        return (model.embed(batch) - target).square().mean()

    attachment = attach(name, model)
    batch = make_batch(model)
    target = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(attachment.parameters(), lr=1e-2)
    first = float(miss(model, target).detach())
    for _ in range(40):
        optimizer.zero_grad()
        loss = miss(model, target)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.7 * first
