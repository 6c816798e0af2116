"""ADEM-VL beyond the golden cases: pooling, needs, what is inserted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

import methods
from harness import backbones
from methods.ademvl import pool
from tests.tiny_backbone import write_tiny_backbone

if TYPE_CHECKING:
    from harness.backbones.decoder import DecoderModel


def test_pooling_averages_square_neighbourhoods_in_row_major_order() -> None:
    patches = torch.arange(16.0).reshape(1, 16, 1)
    pooled = pool(patches, (16, 4, 1)).flatten().tolist()
    assert pooled[:16] == list(range(16))
    assert pooled[16:20] == [2.5, 4.5, 10.5, 12.5]
    assert pooled[20:] == [7.5]


def test_the_cls_token_stands_after_image_colon(tiny_model: DecoderModel) -> None:
    methods.get("ademvl", scales=(16,)).attach(tiny_model, 0)
    picture = torch.randn(3, 56, 56)
    batch = tiny_model.encode(["Hi", "Hi"], answers=None, images=[picture, None])
    inputs = tiny_model.inputs(batch)
    bos, hi = 1, len(tiny_model.text.ids("Hi"))
    assert inputs.lengths.tolist() == [bos + len("Image: ") + 1 + hi, bos + len("Image: N/A") + hi]
    embed = tiny_model.llm.get_input_embeddings()
    written = embed(torch.tensor(tiny_model.text.ids("Image: N/AHi")))
    torch.testing.assert_close(inputs.embeds[1, 1 : 1 + len(written)], written)
    prefix = embed(torch.tensor(tiny_model.text.ids("Image: ")))
    torch.testing.assert_close(inputs.embeds[0, 1:8], prefix)


def test_without_cls_nothing_is_inserted(tiny_model: DecoderModel) -> None:
    methods.get("ademvl", scales=(16,), cls=False).attach(tiny_model, 0)
    batch = tiny_model.encode(["Hi"], answers=None, images=[torch.randn(3, 56, 56)])
    assert tiny_model.inputs(batch).lengths.tolist() == batch.lengths.tolist()


def test_what_the_backbone_lacks_is_named(tiny_model: DecoderModel, tmp_path: Path) -> None:
    assert "16 patches, fewer than ademvl.scales asks (64)" in str(
        methods.get("ademvl", scales=(64,)).unmet(tiny_model)
    )
    assert methods.get("ademvl", scales=(16, 4)).unmet(tiny_model) is None
    llm, vision = map(str, write_tiny_backbone(tmp_path, vision="siglip"))
    siglip = backbones.load(backbones.BackboneSpec("tiny", llm, vision))
    assert "no CLS token; set ademvl.cls=false" in str(methods.get("ademvl", scales=(16,)).unmet(siglip))
    assert methods.get("ademvl", scales=(16,), cls=False).unmet(siglip) is None


@pytest.mark.parametrize("cls", [True, False])
def test_training_and_evaluation_agree_without_vision_dropout(cls: bool, tiny_model: DecoderModel) -> None:
    attachment = methods.get("ademvl", scales=(16, 4), cls=cls, vision_dropout=0.0).attach(tiny_model, 0)
    batch = tiny_model.encode(["Hi"], answers=[" A"], images=[torch.randn(3, 56, 56)])
    quiet = tiny_model.loss(batch)
    attachment.train(True)
    assert torch.equal(tiny_model.loss(batch), quiet)
