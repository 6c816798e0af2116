"""MultiWay-Adapter beyond the golden cases: sizes, starts, routing, both families of backbones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import methods
from harness.backbones.beit3.load import load
from methods import Attachment
from tests.tiny_beit3 import tiny_beit3

if TYPE_CHECKING:
    from harness.backbones.beit3.model import EncoderModel
    from harness.backbones.decoder import DecoderModel

TEXTS = ["Hi there", "Why?"]


def pictures(count: int) -> list[Tensor]:
    return list(torch.randn(count, 3, 56, 56, generator=torch.Generator().manual_seed(0)))


def randomise(attachment: Attachment) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in attachment.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)


def outputs(model: EncoderModel) -> list[Tensor]:
    """What the model makes of images alone, texts alone and both together."""
    batch = model.encode(TEXTS, answers=None, images=list(pictures(2)))
    return [model.read_images(batch.pixel_values), model.read_texts(batch), model.fused(batch)]


def grads(attachment: Attachment, loss: Tensor) -> set[str]:
    """Which parts got a gradient, by the names of their modules."""
    for parameter in attachment.parameters():
        parameter.grad = None
    loss.backward()
    return {name.split(".")[2] for name, p in attachment.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize(
    ("name", "fields", "params"),
    [
        ("beit3-base", {}, 59_122_176),
        ("beit3-large", {}, 207_989_760),
        ("beit3-base", {"enhancer": "none"}, 2_379_264),
        ("beit3-large", {"enhancer": "none"}, 6_343_680),
        ("beit3-base", {"enhancer": "bottleneck"}, 3_568_896),  # half as much again: one more adapter in every block
    ],
)
def test_parameters_are_as_many_as_in_the_authors_constructors(name: str, fields: dict[str, Any], params: int) -> None:
    model = load(name, weights_path=None, tokenizer_path=None, device="meta", dtype=torch.float32)
    attachment = methods.get("mwa", **fields).attach(model, 0)
    assert sum(parameter.numel() for parameter in attachment.parameters()) == params


def test_names_are_the_authors(golden_names: list[str]) -> None:
    attachment = methods.get("mwa").attach(tiny_beit3(), 0)
    ours = {f"beit3.encoder.{name}" for name, _ in attachment.named_parameters()}
    assert ours == set(golden_names)


@pytest.fixture
def golden_names() -> list[str]:
    """Of one layer, as in the authors' checkpoints; for three layers."""
    parts = [f"adaptmlp_{kind}.{way}_proj" for kind in ("text", "vision") for way in ("down", "up")]
    parts += ["enhancemlp.fc1", "enhancemlp.fc2", "enhancemlp.ffn_layernorm"]
    ends = ("weight", "bias")
    return [f"beit3.encoder.layers.{layer}.{part}.{end}" for layer in range(3) for part in parts for end in ends]


def test_detach_gives_the_encoder_back_bit_for_bit() -> None:
    model = tiny_beit3()
    before = outputs(model)
    attachment = methods.get("mwa").attach(model, 0)
    randomise(attachment)
    for changed, plain in zip(outputs(model), before, strict=True):
        assert not torch.allclose(changed, plain, atol=1e-3)
    attachment.detach()
    for after, plain in zip(outputs(model), before, strict=True):
        assert torch.equal(after, plain)


@pytest.mark.parametrize("layernorm", ["none", "in", "out"])
@pytest.mark.parametrize("enhancer", ["none", "bottleneck"])
def test_without_the_codes_enhancer_it_starts_as_the_identity(enhancer: str, layernorm: str) -> None:
    model = tiny_beit3()
    before = outputs(model)
    methods.get("mwa", enhancer=enhancer, layernorm=layernorm).attach(model, 0)
    for after, plain in zip(outputs(model), before, strict=True):
        assert torch.equal(after, plain)


def test_the_codes_enhancer_changes_the_encoder_at_the_start() -> None:
    model = tiny_beit3()
    before = outputs(model)
    attachment = methods.get("mwa").attach(model, 0)
    weight = dict(attachment.named_parameters())["layers.0.enhancemlp.fc1.weight"]
    assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert not any(torch.allclose(a, b, atol=1e-4) for a, b in zip(outputs(model), before, strict=True))


@pytest.mark.parametrize(
    ("fields", "image", "text", "fused"),
    [
        ({}, {"adaptmlp_text"}, {"adaptmlp_vision"}, set[str]()),
        ({"modalities": "image"}, {"adaptmlp_text"}, set[str](), set[str]()),
        ({"modalities": "text"}, set[str](), {"adaptmlp_vision"}, set[str]()),
        ({"fused_adapters": True}, {"adaptmlp_text"}, {"adaptmlp_vision"}, {"adaptmlp_text", "adaptmlp_vision"}),
    ],
)
def test_adapters_serve_their_modality_under_the_authors_swapped_names(
    fields: dict[str, Any], image: set[str], text: set[str], fused: set[str]
) -> None:
    model = tiny_beit3()
    attachment = methods.get("mwa", **fields).attach(model, 0)
    randomise(attachment)
    for out, served in zip(outputs(model), (image, text, fused), strict=True):
        assert grads(attachment, out.square().sum()) == served | {"enhancemlp"}


def test_fused_tokens_take_the_adapter_of_their_own_modality() -> None:
    """With text adapters alone, image tokens leave the first block, whose attention comes before, as they did."""
    model = tiny_beit3()
    batch = model.encode(TEXTS, answers=None, images=list(pictures(2)))
    kept: list[Tensor] = []
    handle = model.encoder.encoder.layers[0].register_forward_hook(lambda _, args, out: kept.append(out))
    model.fused(batch)
    handle.remove()
    fields = {"modalities": "text", "fused_adapters": True, "enhancer": "none"}
    randomise(methods.get("mwa", **fields).attach(model, 0))
    model.encoder.encoder.layers[0].register_forward_hook(lambda _, args, out: kept.append(out))
    model.fused(batch)
    plain, adapted = kept
    assert torch.equal(plain[:, :17], adapted[:, :17])
    assert not torch.isclose(plain[:, 17:], adapted[:, 17:], atol=1e-3).all(dim=2).any()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"enhancer": "fnn"}, "enhancer must be one of auto, ffn, bottleneck, none, got 'fnn'"),
        ({"layernorm": "before"}, "layernorm must be one of"),
        ({"modalities": "vision"}, "modalities must be one of"),
        ({"bottleneck": 0}, "bottleneck must be at least 1"),
    ],
)
def test_values_it_does_not_know_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        methods.get("mwa", **fields)


# On a decoder ---------------------------------------------------------------------------------------------------


def decoder_hidden(model: DecoderModel, images: list[Tensor | None]) -> Tensor:
    return model.hidden(model.inputs(model.encode(TEXTS, answers=None, images=images)))


@pytest.mark.parametrize("fields", [{}, {"enhancer": "ffn"}, {"enhancer": "none", "layernorm": "none"}])
def test_on_a_decoder_everything_but_the_visual_prompt_starts_as_the_identity(
    fields: dict[str, Any], tiny_model: DecoderModel
) -> None:
    before = decoder_hidden(tiny_model, [None, None])
    attachment = methods.get("mwa", **fields).attach(tiny_model, 0)
    assert torch.equal(decoder_hidden(tiny_model, [None, None]), before)
    seen = decoder_hidden(tiny_model, list(pictures(2)))
    attachment.detach()
    llava = methods.get("llava").attach(tiny_model, 0)
    llava.load_state_dict({k: v for k, v in attachment.state_dict().items() if k.startswith("adapter_projector")})
    assert torch.equal(decoder_hidden(tiny_model, list(pictures(2))), seen)


def test_on_a_decoder_tokens_take_the_adapter_their_names_say(tiny_model: DecoderModel) -> None:
    attachment = methods.get("mwa", modalities="text", enhancer="none", tokens=4).attach(tiny_model, 0)
    one, _ = pictures(2)
    kept: list[Tensor] = []
    tiny_model.llm.model.layers[0].register_forward_hook(lambda _, args, out: kept.append(out))
    decoder_hidden(tiny_model, [one, None])
    with torch.no_grad():
        dict(attachment.named_parameters())["layers.0.adaptmlp_text.up_proj.bias"].fill_(1.0)
    decoder_hidden(tiny_model, [one, None])
    added = kept[1] - kept[0]
    assert not added[0, 1:5].any()  # four visual tokens behind BOS
    for text in (added[0, :1], added[0, 5:], added[1]):
        torch.testing.assert_close(text, torch.full_like(text, 0.6), rtol=0, atol=1e-5)


def test_on_a_decoder_each_modality_trains_its_own_adapter(tiny_model: DecoderModel) -> None:
    attachment = methods.get("mwa").attach(tiny_model, 0)
    randomise(attachment)

    def parts(images: list[Tensor | None]) -> set[str]:
        batch = tiny_model.encode(TEXTS, answers=[" A", " B"], images=images)
        for parameter in attachment.parameters():
            parameter.grad = None
        tiny_model.loss(batch).backward()
        with_grad = [name for name, p in attachment.named_parameters() if p.grad is not None and p.grad.any()]
        return {name.split(".")[2] if name.startswith("layers.0") else name.split(".")[0] for name in with_grad}

    text = {"adaptmlp_text", "enhancemlp", "layers"}
    assert parts([None, None]) == text
    assert parts([pictures(1)[0], None]) == text | {"adaptmlp_vision", "adapter_projector"}


def test_beam_search_of_one_is_greedy_and_beams_run(tiny_model: DecoderModel) -> None:
    randomise(methods.get("mwa", tokens=4).attach(tiny_model, 0))
    batch = tiny_model.encode(TEXTS, answers=None, images=[pictures(1)[0], None])
    greedy = tiny_model.generate(batch, max_new_tokens=4)
    assert tiny_model.generate(batch, max_new_tokens=4, beams=1) == greedy
    assert len(tiny_model.generate(batch, max_new_tokens=4, beams=3)) == 2


def test_it_says_which_sites_a_backbone_lacks(tiny_model: DecoderModel) -> None:
    assert methods.get("mwa").unmet(tiny_model) is None
    assert methods.get("mwa").unmet(tiny_beit3(device="meta")) is None
    assert "mwa.tokens=5 is no square number" in str(methods.get("mwa", tokens=5).unmet(tiny_model))
    tiny_model.offers = frozenset({"llm.input", "llm.ffn"})
    said = methods.get("mwa").unmet(tiny_model)
    assert said == f"{tiny_model.name} offers neither encoder.block, encoder.ffn nor llm.block, llm.ffn, llm.input"
