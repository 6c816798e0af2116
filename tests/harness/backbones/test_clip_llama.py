"""Loading backbones: what comes out, and one clear line for each way in which a folder can be wrong."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness import backbones
from harness.backbones import BackboneError, BackboneSpec
from harness.backbones.decoder import DecoderModel
from tests.tiny_backbone import write_tiny_backbone


def copied(folders: tuple[Path, Path], to: Path) -> tuple[Path, Path]:
    return tuple(shutil.copytree(folder, to / folder.name) for folder in folders)  # type: ignore[return-value]


def load(llm: Path | str, vision: Path | str, **kwargs: str) -> DecoderModel:
    return backbones.load(BackboneSpec("tiny", str(llm), str(vision), **kwargs))  # type: ignore[arg-type]


def test_a_pair_of_folders_loads_frozen(tiny_folders: tuple[Path, Path]) -> None:
    model = load(*tiny_folders)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.name == "llm+clip"
    assert (model.shape.llm_layers, model.shape.patches, "vision.cls" in model.offers) == (2, 16, True)
    assert model.folders == tiny_folders


def test_clip_features_are_the_last_but_one_hidden_state(tiny_model: DecoderModel) -> None:
    pixels = torch.randn(2, 3, 56, 56)
    encoder = tiny_model.vision.encoder
    states = encoder(pixels, output_hidden_states=True).hidden_states
    expected = encoder.post_layernorm(states[-2])
    torch.testing.assert_close(tiny_model.vision(pixels), expected)


@pytest.mark.parametrize("kind", ["siglip", "dinov2"])
def test_other_towers_load(kind: str, tmp_path: Path) -> None:
    if kind == "siglip":
        model = load(*write_tiny_backbone(tmp_path, vision=kind))
        assert "vision.cls" not in model.offers
        assert model.vision(torch.randn(1, 3, 56, 56)).shape == (1, 16, 32)
    else:
        model = load(*write_tiny_backbone(tmp_path, vision=kind))
        pixels = torch.randn(1, 3, 224, 224)
        torch.testing.assert_close(model.vision(pixels), model.vision.encoder(pixels).last_hidden_state)
        assert model.vision(pixels).shape == (1, 257, 32)


def test_a_branch_beside_a_dinov2_ffn_is_not_scaled_by_its_layer_scale(tmp_path: Path) -> None:
    model = load(*write_tiny_backbone(tmp_path, vision="dinov2"))
    block = model.vision.blocks[0]
    x = torch.randn(1, 5, 32)
    plain = block(x, None)
    handle = model.on_ffn("vision", 0, lambda normed: torch.ones_like(normed))
    torch.testing.assert_close(block(x, None), plain + 1)
    handle.remove()
    assert torch.equal(block(x, None), plain)


@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_a_folder_below_the_home_folder(
    weights: str, tiny_folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tiny_folders[0].parent))
    model = load("~/llm", "~/clip", weights=weights)
    assert model.name == "llm+clip"
    assert model.folders == (tiny_folders if weights == "pretrained" else ())
    with pytest.raises(BackboneError, match="~nobody-of-that-name/llm: nobody has such a home folder"):
        load("~nobody-of-that-name/llm", "~/clip")


def test_random_weights_are_seeded_and_have_no_folder(tiny_folders: tuple[Path, Path]) -> None:
    one, other = (load(*tiny_folders, weights="random") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert one.folders == ()


def test_unknown_names_and_half_pairs() -> None:
    with pytest.raises(BackboneError, match="unknown backbone 'mimi'; did you mean 'mini'"):
        backbones.check(BackboneSpec("mimi"))
    with pytest.raises(BackboneError, match="--llm needs --vision"):
        backbones.check(BackboneSpec("mini", llm="somewhere"))
    with pytest.raises(BackboneError, match="llama-7b ships no weights.*--weights random"):
        backbones.check(BackboneSpec("llama-7b"))


def test_missing_folder_config_tokenizer_and_weights(tiny_folders: tuple[Path, Path], tmp_path: Path) -> None:
    llm, vision = copied(tiny_folders, tmp_path)
    with pytest.raises(BackboneError, match=re.escape(f"{tmp_path}/none: no such folder")):
        load(tmp_path / "none", vision)
    (vision / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match=f"{re.escape(str(vision))}: cannot read its safetensors weights"):
        load(llm, vision)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (llm / name).unlink()
    with pytest.raises(BackboneError, match=f"{re.escape(str(llm))}: cannot read its tokenizer"):
        load(llm, vision)
    (llm / "config.json").unlink()
    with pytest.raises(BackboneError, match=f"{re.escape(str(llm))}: no config.json"):
        load(llm, vision)


def test_truncated_config_and_weights(tiny_folders: tuple[Path, Path], tmp_path: Path) -> None:
    llm, vision = copied(tiny_folders, tmp_path)
    weights = vision / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(BackboneError, match="safetensors weights") as caught:
        load(llm, vision)
    assert "\n" not in str(caught.value)
    config = llm / "config.json"
    config.write_text(config.read_text()[:40])
    with pytest.raises(BackboneError, match=f"{re.escape(str(llm))}: cannot read its config"):
        load(llm, vision)


def test_nan_and_missing_tensors_are_named(tiny_folders: tuple[Path, Path], tmp_path: Path) -> None:
    llm, vision = copied(tiny_folders, tmp_path)
    path = llm / "model.safetensors"
    good = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    bad = good[name].clone()
    bad[0, 0] = float("nan")
    save_file({**good, name: bad}, path, metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=f"{re.escape(name)}' holds NaN"):
        load(llm, vision)
    save_file({k: v for k, v in good.items() if k != name}, path, metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=f"weights lack '{re.escape(name)}'"):
        load(llm, vision)


def test_wrong_kinds_of_model(tiny_folders: tuple[Path, Path], tmp_path: Path) -> None:
    llm, vision = tiny_folders
    with pytest.raises(BackboneError, match="model type 'clip_vision_model' is not one of llama"):
        load(vision, vision)
    with pytest.raises(BackboneError, match="model type 'llama' is not one of clip"):
        load(llm, llm)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(BackboneError, match="model type 'gpt2'"):
        load(tmp_path, vision)
