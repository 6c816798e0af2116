"""The BEiT-3 backbone: sites, batches, and what `embed` reads of a row."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

import methods
from harness.backbones.beit3.model import EncoderModel
from tests.tiny_beit3 import tiny_beit3

TEXTS = ["a red ball", "a very long caption of three blue houses", "x"]


@pytest.fixture
def model() -> EncoderModel:
    return tiny_beit3()


def pictures(count: int) -> list[Tensor]:
    return list(torch.randn(count, 3, 56, 56, generator=torch.Generator().manual_seed(0)))


def embedded(model: EncoderModel, texts: list[str], images: list[Tensor | None]) -> Tensor:
    return model.embed(model.encode(texts, answers=None, images=images))


def test_a_text_is_framed_cut_to_64_tokens_and_padded(model: EncoderModel) -> None:
    batch = model.encode(["ab", "a" * 100], answers=None, images=[None, None])
    assert batch.input_ids[0, :5].tolist() == [0, 4 + ord("a"), 4 + ord("b"), 2, 1]
    assert batch.input_ids[1].tolist() == [0, *[4 + ord("a")] * 62, 2]
    assert batch.lengths.tolist() == [4, 64]
    assert model.text_length("a" * 100, None) == 102 > model.room == 64
    assert (batch.labels == -100).all()


def test_an_image_row_is_read_without_its_text_and_a_text_row_without_images(model: EncoderModel) -> None:
    one, other = pictures(2)
    both = embedded(model, ["a", "b", "b"], [None, one, other])
    assert both.shape == (3, model.embed_width)
    assert both.dtype == torch.float32
    assert torch.equal(both[1], embedded(model, ["something else"], [one])[0])
    torch.testing.assert_close(both[1:], torch.cat([embedded(model, ["c"], [p]) for p in (one, other)]))
    torch.testing.assert_close(both[0], embedded(model, ["a"], [None])[0])
    assert not torch.allclose(both[1], both[2], atol=1e-4)
    assert not torch.allclose(both[0], embedded(model, ["b"], [None])[0], atol=1e-4)


def test_embeddings_do_not_depend_on_batch_and_padding(model: EncoderModel) -> None:
    together = embedded(model, TEXTS, [None] * 3)
    for row, text in enumerate(TEXTS):
        torch.testing.assert_close(together[row], embedded(model, [text], [None])[0], rtol=0, atol=1e-5)


def test_fused_rows_read_both_and_need_both(model: EncoderModel) -> None:
    one, other = pictures(2)
    batch = model.encode(TEXTS[:2], answers=None, images=[one, one])
    hidden = model.fused(batch)
    assert hidden.shape == (2, 17 + batch.input_ids.shape[1], 64)
    assert not torch.allclose(hidden[0, 0], hidden[1, 0], atol=1e-4)  # the image's CLS token has seen the text
    swapped = model.fused(model.encode(TEXTS[:1], answers=None, images=[other]))
    assert not torch.allclose(hidden[0, 17], swapped[0, 17], atol=1e-4)
    with pytest.raises(ValueError, match="1 of 2 rows have no image"):
        model.fused(model.encode(TEXTS[:2], answers=None, images=[one, None]))


def test_images_may_come_in_any_order(model: EncoderModel) -> None:
    batch = model.encode(TEXTS[:2], answers=None, images=pictures(2))  # type: ignore[arg-type]
    turned = dataclasses.replace(batch, pixel_values=batch.pixel_values.flip(0), image_rows=batch.image_rows.flip(0))
    torch.testing.assert_close(model.fused(turned), model.fused(batch))
    torch.testing.assert_close(model.embed(turned), model.embed(batch))


def test_visual_tokens_are_all_none_or_the_first(model: EncoderModel) -> None:
    seen: list[Tensor] = []

    def look(x: Tensor) -> Tensor:
        seen.append(model.visual_tokens)
        return torch.zeros_like(x)

    handle = model.on_block("encoder", 0, look)
    (one,) = pictures(1)
    batch = model.encode(["ab"], answers=None, images=[one])
    model.embed(batch)
    embedded(model, ["ab"], [None])
    model.fused(batch)
    handle.remove()
    image, text, fused = seen
    assert image.tolist() == [[True] * 17]
    assert text.tolist() == [[False] * 4]
    assert fused.tolist() == [[True] * 17 + [False] * 4]
    with pytest.raises(RuntimeError, match="during a forward"):
        _ = tiny_beit3().visual_tokens


@pytest.mark.parametrize("reads", ["raw", "normed"])
def test_a_branch_reads_the_stream_before_or_after_the_norm(model: EncoderModel, reads: methods.Reads) -> None:
    block = model.encoder.encoder.layers[1]
    kept: dict[str, Tensor] = {}
    block.final_layer_norm.register_forward_hook(lambda _, args, out: kept.update(raw=args[0], normed=out))
    out: list[Tensor] = []
    block.register_forward_hook(lambda _, args, result: out.append(result))
    before = embedded(model, TEXTS, [None] * 3)
    handle = model.on_ffn("encoder", 1, lambda x: torch.ones_like(x) * torch.equal(x, kept[reads]), reads=reads)
    embedded(model, TEXTS, [None] * 3)
    handle.remove()
    assert torch.equal(embedded(model, TEXTS, [None] * 3), before)
    torch.testing.assert_close(out[1], out[0] + 1)


def test_a_block_branch_sees_the_ffn_branch(model: EncoderModel) -> None:
    seen: list[Tensor] = []
    model.on_block("encoder", 0, lambda h: seen.append(h) or torch.zeros_like(h))  # type: ignore[func-returns-value]
    embedded(model, TEXTS, [None] * 3)
    model.on_ffn("encoder", 0, torch.ones_like)
    embedded(model, TEXTS, [None] * 3)
    torch.testing.assert_close(seen[1], seen[0] + 1)


def test_withheld_images_are_all_the_same(model: EncoderModel) -> None:
    one, other = pictures(2)
    plain = embedded(model, ["", ""], [one, other])
    handle = model.withhold_images()
    blind = embedded(model, ["", ""], [one, other])
    assert torch.equal(blind[0], blind[1])
    assert torch.equal(blind[:1], embedded(model, [""], [torch.zeros(3, 56, 56)]))
    handle.remove()
    handle.remove()
    assert torch.equal(embedded(model, ["", ""], [one, other]), plain)


def test_sites_it_does_not_have_are_refused(model: EncoderModel) -> None:
    with pytest.raises(ValueError, match=r"offers no llm\.input"):
        model.on_images(lambda images: None)
    with pytest.raises(ValueError, match="no tower 'llm'"):
        model.on_ffn("llm", 0, torch.zeros_like)
    for name in ("ademvl", "memvp", "llava"):
        assert "tiny-beit3" in str(methods.get(name).unmet(model))


def test_full_trains_every_weight_that_is_read_and_gives_them_back(model: EncoderModel) -> None:
    (one,) = pictures(1)
    before = embedded(model, ["a", "b"], [None, one])
    attachment = methods.get("full").attach(model, 0)
    embedded(model, ["a", "b"], [None, one]).square().sum().backward()
    with torch.no_grad():
        for name, parameter in attachment.named_parameters():
            assert (parameter.grad is None) == name.endswith("mask_token"), name
            parameter.add_(0.1)
    assert not torch.allclose(embedded(model, ["a", "b"], [None, one]), before, atol=1e-3)
    attachment.detach()
    assert torch.equal(embedded(model, ["a", "b"], [None, one]), before)


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("fc1", "fc2", "out_proj")])
def test_lora_reaches_both_experts_of_the_named_layers(model: EncoderModel, targets: tuple[str, ...]) -> None:
    (one,) = pictures(1)
    before = embedded(model, ["a", "b"], [None, one])
    attachment = methods.get("lora", target_modules=targets, dropout=0.0).attach(model, 0)
    assert torch.equal(embedded(model, ["a", "b"], [None, one]), before)
    names = [name for name, _ in attachment.named_parameters()]
    for target in targets:
        for expert in "AB":
            assert any(target in name and f".{expert}." in name for name in names), (target, expert)
    with torch.no_grad():
        for parameter in attachment.parameters():
            parameter.add_(0.1)
    assert not torch.allclose(embedded(model, ["a", "b"], [None, one]), before, atol=1e-3)
    attachment.detach()
    assert torch.equal(embedded(model, ["a", "b"], [None, one]), before)
