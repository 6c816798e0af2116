"""MemVP beyond the golden cases: slots, dropout, the unused table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

import methods

if TYPE_CHECKING:
    from harness.backbones.decoder import DecoderModel


def loss_of(model: DecoderModel) -> torch.Tensor:
    picture = torch.randn(3, 56, 56, generator=torch.Generator().manual_seed(0))
    return model.loss(model.encode(["Hi"], answers=[" A"], images=[picture]))


def test_every_patch_needs_a_slot(tiny_model: DecoderModel) -> None:
    assert "16 patches, more than memvp.slots=15" in str(methods.get("memvp", slots=15).unmet(tiny_model))
    assert methods.get("memvp", slots=16).unmet(tiny_model) is None


def test_nothing_is_inserted_into_the_input(tiny_model: DecoderModel) -> None:
    methods.get("memvp", slots=16).attach(tiny_model, 0)
    batch = tiny_model.encode(["Hi"], answers=None, images=[torch.randn(3, 56, 56)])
    assert torch.equal(tiny_model.inputs(batch).embeds, tiny_model.llm.get_input_embeddings()(batch.input_ids))


def test_dropout_acts_in_training_only(tiny_model: DecoderModel) -> None:
    attachment = methods.get("memvp", slots=20, scale=1.0, image_scale=1.0, vision_adapter=0, dropout=0.5).attach(
        tiny_model, 0
    )
    with torch.no_grad():
        next(p for name, p in attachment.named_parameters() if name == "adapter_emb2").normal_()
    assert torch.equal(loss_of(tiny_model), loss_of(tiny_model))
    attachment.train(True)
    assert not torch.equal(loss_of(tiny_model), loss_of(tiny_model))


def test_the_modality_table_is_counted_but_never_trained(tiny_model: DecoderModel) -> None:
    attachment = methods.get("memvp", slots=16).attach(tiny_model, 0)
    loss_of(tiny_model).backward()
    table = dict(attachment.named_parameters())["adapter_modality_embedding.weight"]
    assert table.shape == (2, 48)
    assert table.grad is None
