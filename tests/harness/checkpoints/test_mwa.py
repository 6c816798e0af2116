"""MultiWay-Adapter checkpoints on BEiT-3: only what was trained is taken, and it comes back."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import methods
from harness import backbones
from harness.backbones.beit3.model import EncoderModel
from harness.checkpoints import CheckpointError, beit3, convert, own
from tests.golden import GOLDEN, NEEDS_GOLDEN
from tests.harness.checkpoints.conftest import Refused, random_state, same
from tests.tiny_beit3 import tiny_beit3, write_checkpoint

METHOD = methods.get("mwa", bottleneck=8)
HEADS = {"vision_head.weight": (64, 64), "language_head.weight": (64, 64), "logit_scale": ()}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> EncoderModel:
    """The tiny BEiT-3, which has no name on the command line, in place of beit3-base."""
    model = tiny_beit3()
    monkeypatch.setattr("harness.backbones.load", lambda spec, *, device: tiny_beit3(device=device))
    return model


def trained(model: EncoderModel, *, heads: bool) -> dict[str, Tensor]:
    """Random adapters, enhancers (and heads) under the official names."""
    state = {f"beit3.encoder.{key}": tensor for key, tensor in random_state(METHOD, model).items()}
    return state | ({key: torch.randn(shape) for key, shape in HEADS.items()} if heads else {})


@pytest.mark.parametrize("heads", [True, False])
def test_there_and_back(heads: bool, tmp_path: Path, tiny: EncoderModel) -> None:
    state = trained(tiny, heads=heads)
    source = write_checkpoint(tiny, tmp_path / "checkpoint-9.pth", state)
    content = torch.load(source, weights_only=True) | {"args": argparse.Namespace(ffn_num=64), "epoch": 9}
    torch.save(content, source)
    spec = backbones.BackboneSpec("beit3-base")
    convert.import_("beit3", source, tmp_path / "ours", method=METHOD, backbone=spec)
    saved = own.load(tmp_path / "ours")
    assert saved.method == METHOD
    assert {key for key in saved.state if key.startswith("head.")} == (
        {f"head.{key}" for key in HEADS} if heads else set()
    )
    convert.export("beit3", tmp_path / "ours", tmp_path / "back.pth")
    assert same(torch.load(tmp_path / "back.pth", weights_only=True)["model"], state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"vision_head.weight": torch.zeros(64, 32)},
            "'head.vision_head.weight' has shape (64, 32), expected (64, 64)",
        ),
        ({"language_head.weight": torch.zeros(32, 64)}, "'head.language_head.weight' has shape (32, 64), expected"),
        ({"logit_scale": torch.zeros(1)}, "'head.logit_scale' has shape (1,), expected ()"),
        ({"logit_scale": None}, "lacks 'head.logit_scale' of shape ()"),
        ({"vision_head.weight": None}, "lacks 'head.vision_head.weight' of shape (64, 64)"),
    ],
)
def test_heads_that_do_not_fit_are_refused(
    change: dict[str, Tensor | None], message: str, tmp_path: Path, tiny: EncoderModel
) -> None:
    state = {key: t for key, t in (trained(tiny, heads=True) | change).items() if t is not None}
    torch.save({"model": state}, tmp_path / "x.pth")
    spec = backbones.BackboneSpec("beit3-base")
    with pytest.raises(CheckpointError) as raised:
        convert.import_("beit3", tmp_path / "x.pth", tmp_path / "ours", method=METHOD, backbone=spec)
    assert message in str(raised.value)
    assert not (tmp_path / "ours").exists()


@pytest.mark.realdata
@NEEDS_GOLDEN
def test_the_authors_whole_model_gives_what_they_trained(tmp_path: Path) -> None:
    state = load_file(GOLDEN / "mwa_model" / "weights.safetensors")
    torch.save({"model": state}, tmp_path / "x.pth")
    parts = ("adaptmlp_text", "adaptmlp_vision", "enhancemlp")
    taken = {key.removeprefix("beit3.encoder."): t for key, t in state.items() if any(part in key for part in parts)}
    found = beit3.read(tmp_path / "x.pth").state
    assert same(found, taken | {f"head.{key}": state[key] for key in HEADS})


def test_a_backbone_alone_is_refused(tmp_path: Path, tiny: EncoderModel, refused: Refused) -> None:
    source = write_checkpoint(tiny, tmp_path / "beit3.pth")
    line = refused("import", "--format", "beit3", source, "--out", tmp_path / "out", "--backbone", "beit3-base")
    assert line.startswith(f"{source}: no 'beit3.encoder.layers.0.adaptmlp_text...' or the like in it")


def test_what_does_not_fit_is_named(tmp_path: Path, tiny: EncoderModel, refused: Refused) -> None:
    state = trained(tiny, heads=False)
    torch.save({"model": state}, tmp_path / "x.pth")
    argv = ("import", "--format", "beit3", tmp_path / "x.pth", "--out", tmp_path / "out")
    shown = "'layers.0.adaptmlp_text.down_proj.weight' has shape (8, 64), expected (64, 64)"
    assert shown in refused(*argv, "--backbone", "beit3-base")
    assert "has unknown 'layers.0.enhancemlp" in refused(
        *argv, "--backbone", "beit3-base", "--set", "mwa.bottleneck=8", "--set", "mwa.enhancer=none"
    )


def test_a_decoders_projector_has_no_place_in_it(tmp_path: Path, refused: Refused) -> None:
    state = {"adapter_projector.fc1.bias": torch.zeros(2)}
    own.save(tmp_path / "x", method_name="mwa", method=METHOD, state=state, backbone="x", note="")
    line = refused("export", "--format", "beit3", tmp_path / "x", "--out", tmp_path / "x.pth")
    assert "BEiT-3's format has no place for 'adapter_projector.fc1.bias'" in line
    assert not (tmp_path / "x.pth").exists()
