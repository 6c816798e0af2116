"""Every registered method through one conformance suite, on a tiny random backbone."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import torch
from transformers import DynamicCache

import methods
from harness import backbones
from harness.backbones.decoding import Decoding
from tests.attaching import FIELDS, TEXTS, attach, make_batch, pictures, randomise, runs_of_last_layer

if TYPE_CHECKING:
    from harness.backbones.decoder import DecoderModel
    from methods import Batch

TRAINED = [name for name in methods.names() if methods.load(name).trains]


def strong(name: str) -> methods.Method:
    """The papers' small weights suit wide models; a tiny one needs the branch at full weight to learn in seconds."""
    weights = {"ademvl": {"alpha": 1.0, "beta": 1.0}, "memvp": {"scale": 1.0, "image_scale": 1.0}}
    if name == "blind":
        return methods.get("blind", fields=tuple({**FIELDS["ademvl"], **weights["ademvl"]}.items()))
    return methods.get(name, **FIELDS.get(name, {}), **weights.get(name, {}))


@pytest.mark.parametrize("name", methods.names())
def test_detach_gives_the_backbone_back_bit_for_bit(name: str, tiny_model: DecoderModel) -> None:
    before = tiny_model.logits(make_batch(tiny_model))
    attachment = attach(name, tiny_model)
    randomise(attachment)
    changed = tiny_model.logits(make_batch(tiny_model))
    attachment.detach()
    assert torch.equal(tiny_model.logits(make_batch(tiny_model)), before)
    if methods.load(name).trains:
        assert changed.shape != before.shape or not torch.equal(changed, before)


@pytest.mark.parametrize("name", methods.names())
def test_what_tuning_may_change_leaves_the_parameters_as_many(name: str, tiny_model: DecoderModel) -> None:
    fields = FIELDS.get(name, {})
    searches = {f.name: search for f in dataclasses.fields(methods.load(name)) if (search := f.metadata.get("tune"))}
    counts = set()
    for changes in ({}, *({field: end} for field, of in searches.items() for end in (of.low, of.high))):
        attachment = methods.get(name, **fields | changes).attach(tiny_model, 0)
        counts.add(sum(parameter.numel() for parameter in attachment.parameters()))
        attachment.detach()
    assert len(counts) == 1
    assert all(of.low < of.high and (of.low > 0 or not of.log) for of in searches.values())


@pytest.mark.parametrize("name", methods.names())
def test_only_declared_parameters_receive_gradients(name: str, tiny_model: DecoderModel) -> None:
    attachment = attach(name, tiny_model)
    if not methods.load(name).trains:
        assert not list(attachment.parameters())
        return
    randomise(attachment)
    tiny_model.loss(make_batch(tiny_model)).backward()
    declared = {id(parameter) for parameter in attachment.parameters()}
    assert all(p.grad is None for p in tiny_model.parameters() if id(p) not in declared)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in attachment.parameters())


@pytest.mark.parametrize("name", methods.names())
def test_state_survives_a_round_trip(name: str, tiny_model: DecoderModel) -> None:
    first = attach(name, tiny_model)
    randomise(first)
    expected, state = tiny_model.logits(make_batch(tiny_model)), first.state_dict()
    first.detach()
    second = attach(name, tiny_model, seed=7)
    second.load_state_dict(state)
    assert torch.equal(tiny_model.logits(make_batch(tiny_model)), expected)


@pytest.mark.parametrize("name", TRAINED)
def test_state_of_another_shape_is_refused_by_name(name: str, tiny_model: DecoderModel) -> None:
    attachment = attach(name, tiny_model)
    state = attachment.state_dict()
    key = next(iter(state))
    with pytest.raises(ValueError, match=f"{key}.*expected"):
        attachment.load_state_dict({**state, key: torch.zeros(3)})
    with pytest.raises(ValueError, match=f"lacks '{key}'"):
        attachment.load_state_dict({k: v for k, v in state.items() if k != key})


@pytest.mark.parametrize("name", methods.names())
def test_same_seed_same_parameters(name: str, tiny_model: DecoderModel) -> None:
    states = []
    for seed in (3, 3, 4):
        attachment = attach(name, tiny_model, seed)
        states.append(attachment.state_dict())
        attachment.detach()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not states[0] or any(not torch.equal(states[0][key], states[2][key]) for key in states[0])


@pytest.mark.parametrize("name", methods.names())
def test_building_leaves_the_global_generator_alone(name: str, tiny_model: DecoderModel) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    attach(name, tiny_model)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", methods.names())
def test_a_row_does_not_depend_on_its_batch(name: str, tiny_model: DecoderModel) -> None:
    randomise(attach(name, tiny_model))
    choices = [[" A", " B", " long one"], [" not so long", " C"], [" x", " an even longer one", " D", " E"]]
    together = tiny_model.continuation_logprobs(make_batch(tiny_model, answers=False), choices)
    for row in range(3):
        alone = tiny_model.continuation_logprobs(make_batch(tiny_model, [row], answers=False), [choices[row]])
        assert together[row] == pytest.approx(alone[0], abs=1e-4)


def left_padded_prefill(model: DecoderModel, batch: Batch) -> Decoding:
    """What `prefill` gives, of rows that are padded on the left, as Hugging Face's `generate` has them."""
    inputs, cache = model.inputs(batch), DynamicCache(config=model.llm.config)
    width = inputs.embeds.shape[1]
    places = (torch.arange(width) + inputs.lengths[:, None]) % width
    visible = (torch.arange(width) >= width - inputs.lengths[:, None]).long()
    embeds = inputs.embeds.gather(1, places[..., None].expand_as(inputs.embeds))
    masked = {"attention_mask": visible, "position_ids": places * visible}
    hidden = model._read(embeds, inputs.visual.gather(1, places), past_key_values=cache, use_cache=True, **masked)
    return Decoding(model.llm.lm_head(hidden[:, -1]), cache, visible, inputs.lengths)


@torch.inference_mode()
@pytest.mark.parametrize("padded", ["right", "left"])
@pytest.mark.parametrize("name", methods.names())
def test_decoding_with_a_cache_equals_a_full_forward(name: str, padded: str, tiny_model: DecoderModel) -> None:
    randomise(attach(name, tiny_model))
    new = " B C"
    batch = make_batch(tiny_model, answers=False)
    state = tiny_model.prefill(batch) if padded == "right" else left_padded_prefill(tiny_model, batch)
    stepped = [state.logits]
    for token in tiny_model.text.continuation(new):
        state = tiny_model.step(state, torch.full((3,), token))
        stepped.append(state.logits)
    images = [*pictures(2), None]
    full = tiny_model.encode([text + new for text in TEXTS], answers=None, images=images)
    logits, lengths = tiny_model.logits(full), tiny_model.inputs(full).lengths
    for row, length in enumerate(lengths.tolist()):
        for back, step in enumerate(reversed(stepped)):
            torch.testing.assert_close(step[row], logits[row, length - 1 - back], rtol=0, atol=1e-4)


def contrast(model: DecoderModel) -> torch.Tensor:
    """One number out of two forwards, of pictures and of texts, as retrieval makes it."""
    images = model.encode(["a picture of"] * 3, answers=None, images=pictures(3))
    texts = model.encode(TEXTS, answers=None, images=[None] * 3)
    return (model.embed(images) @ model.embed(texts).T).log_softmax(dim=1).diagonal().mean()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", TRAINED)
def test_recomputed_layers_give_the_gradients_of_their_own_forward(
    name: str, precision: backbones.Precision, tiny_folders: tuple[Path, Path]
) -> None:
    spec = backbones.BackboneSpec("tiny", *map(str, tiny_folders))
    model = cast("DecoderModel", backbones.load(spec, precision=precision))
    attachment = attach(name, model)
    randomise(attachment)

    def gradients() -> dict[str, torch.Tensor]:
        for parameter in attachment.parameters():
            parameter.grad = None
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = contrast(model)
        loss.backward()
        return {key: p.grad for key, p in attachment.named_parameters() if p.grad is not None}

    runs = runs_of_last_layer(model)
    expected = gradients()
    once = len(runs)
    model.recompute()
    found = gradients()
    assert len(runs) > 2 * once, "the backward pass has run it again"
    assert found.keys() == expected.keys()
    assert any(gradient.abs().sum() > 0 for gradient in expected.values())
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, msg=lambda said, key=key: f"{key}: {said}")


@pytest.mark.parametrize("name", TRAINED)
def test_recomputed_layers_leave_nothing_behind(name: str, tiny_model: DecoderModel) -> None:
    attachment = attach(name, tiny_model)
    tiny_model.recompute()
    runs = runs_of_last_layer(tiny_model)
    counts = []
    for _ in range(3):
        tiny_model.loss(make_batch(tiny_model)).backward()
        for parameter in attachment.parameters():
            parameter.grad = None
        gc.collect()
        counts.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))
    assert len(runs) == 6, "each backward pass has run it again"
    assert counts[1] == counts[2]


@pytest.mark.parametrize("name", methods.names())
def test_images_may_come_in_any_order(name: str, tiny_model: DecoderModel) -> None:
    randomise(attach(name, tiny_model))
    batch = make_batch(tiny_model, rows=(0, 1))
    turned = dataclasses.replace(batch, pixel_values=batch.pixel_values.flip(0), image_rows=batch.image_rows.flip(0))
    torch.testing.assert_close(tiny_model.logits(turned), tiny_model.logits(batch))


@pytest.mark.parametrize("name", ["ademvl", "memvp"])
def test_the_image_matters_and_blind_withholds_it(name: str, tiny_model: DecoderModel) -> None:
    def scores(image: torch.Tensor | None) -> list[float]:
        batch = tiny_model.encode([TEXTS[0]], answers=None, images=[image])
        return tiny_model.continuation_logprobs(batch, [[" A", " B"]])[0]

    attachment = attach(name, tiny_model)
    randomise(attachment)
    one, other = pictures(2)
    assert scores(one) != scores(other) != scores(None)
    attachment.detach()
    settings = tuple(FIELDS[name].items())
    randomise(methods.get("blind", of=name, fields=settings).attach(tiny_model, 0))
    assert scores(one) == scores(other) == scores(None)


@pytest.mark.parametrize("name", TRAINED)
def test_a_tiny_batch_is_overfitted(name: str, tiny_model: DecoderModel) -> None:
    attachment = strong(name).attach(tiny_model, 0)
    optimizer = torch.optim.AdamW(attachment.parameters(), lr=3e-2)
    batch = make_batch(tiny_model, rows=(0, 1))  # a visual prompt cannot reach a row without a picture
    first = float(tiny_model.loss(batch).detach())
    for _ in range(100):
        optimizer.zero_grad()
        loss = tiny_model.loss(batch)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.7 * first
