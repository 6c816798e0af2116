"""peft's folders: written ones load into the plain language model, peft's own ones are read, the rest is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

import methods
from harness.checkpoints import CheckpointError, own, peft_folder
from tests.harness.checkpoints.conftest import Imported, Refused, random_state, same
from tests.tiny_beit3 import tiny_beit3

if TYPE_CHECKING:
    from harness.backbones.decoder import DecoderModel

# peft 0.21 asks transformers 5.23 by an old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"rank": 4, "alpha": 12.0, "dropout": 0.2},
    "rslora": {"rank": 4, "rslora": True, "target_modules": ("down_proj", "o_proj", "q_proj")},
    "dora": {"rank": 2, "dora": True, "hidden": 10},
}


@pytest.fixture
def folder(tmp_path: Path, tiny_model: DecoderModel, options: dict[str, Any]) -> Path:
    """A checkpoint of ours with random numbers."""
    method = methods.get("lora", **options)
    state = random_state(method, tiny_model)
    own.save(tmp_path / "ours", method_name="lora", method=method, state=state, backbone="tiny", note="")
    return tmp_path / "ours"


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_what_is_written_loads_in_peft_and_computes_the_same(
    folder: Path, converted: Imported, tiny_folders: tuple[Path, Path], tiny_model: DecoderModel
) -> None:
    written = converted("export", "peft", folder, name="peft")
    assert sorted(path.name for path in written.iterdir() if path.suffix != ".md") == [
        "adapter_config.json", "adapter_model.safetensors", "projector.safetensors"
    ]  # fmt: skip
    ids = torch.arange(4, 16)[None]
    plain = LlamaForCausalLM.from_pretrained(tiny_folders[0])
    before = plain(ids).logits
    loaded = peft.PeftModel.from_pretrained(plain, str(written)).eval()
    saved = own.load(folder)
    attachment = saved.method.attach(tiny_model, seed=3)
    attachment.load_state_dict(saved.state)
    ours = tiny_model.llm(ids).logits
    torch.testing.assert_close(loaded(ids).logits, ours)
    assert (ours - before).abs().max() > 0.05


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_there_and_back(folder: Path, converted: Imported, pair: list[str], options: dict[str, Any]) -> None:
    hidden = ["--set", f"lora.hidden={options['hidden']}"] if "hidden" in options else []
    written = converted("export", "peft", folder, name="peft")
    again = own.load(converted("import", "peft", written, *pair, *hidden, name="again"))
    saved = own.load(folder)
    assert again.method == saved.method
    assert same(again.state, saved.state)
    twice = converted("export", "peft", folder, name="twice")
    for name in ("adapter_config.json", "adapter_model.safetensors", "projector.safetensors"):
        assert (twice / name).read_bytes() == (written / name).read_bytes()


def test_what_peft_itself_saves_is_read(
    tmp_path: Path, tiny_folders: tuple[Path, Path], converted: Imported, pair: list[str]
) -> None:
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["v_proj", "k_proj"], task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(LlamaForCausalLM.from_pretrained(tiny_folders[0]), config)
    wrapped.save_pretrained(str(tmp_path / "theirs"))
    projector = {"fc1.weight": (48, 32), "fc1.bias": (48,), "fc2.weight": (48, 48), "fc2.bias": (48,)}
    tensors = {f"adapter_projector.{name}": torch.randn(shape) for name, shape in projector.items()}
    save_file(tensors, tmp_path / "theirs" / "projector.safetensors")
    saved = own.load(converted("import", "peft", tmp_path / "theirs", *pair, name="ours"))
    fields = {"rank": 3, "alpha": 5.0, "dropout": 0.0, "target_modules": ("k_proj", "v_proj")}
    assert saved.method == methods.get("lora", **fields)
    back = converted("export", "peft", tmp_path / "ours", name="back")
    theirs = tmp_path / "theirs" / "adapter_model.safetensors"
    assert same(load_file(back / "adapter_model.safetensors"), load_file(theirs))


def plain_folder(tiny_folders: tuple[Path, Path], out: Path) -> Path:
    """What peft alone makes: no visual prompt in it."""
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["v_proj", "k_proj"], task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(LlamaForCausalLM.from_pretrained(tiny_folders[0]), config)
    wrapped.save_pretrained(str(out))
    return out


def test_a_folder_of_peft_alone_gets_a_new_visual_prompt(
    tmp_path: Path, tiny_folders: tuple[Path, Path], converted: Imported, pair: list[str], tiny_model: DecoderModel,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    theirs = plain_folder(tiny_folders, tmp_path / "theirs")
    saved = own.load(converted("import", "peft", theirs, *pair, name="ours"))
    assert "no visual prompt in it, so that one is new" in saved.note
    assert "no visual prompt in it, so that one is new" in caplog.messages[-1]
    again = own.load(converted("import", "peft", theirs, *pair, name="twice"))
    assert same(again.state, saved.state)
    attachment = saved.method.attach(tiny_model, seed=0)
    fresh = {name: tensor for name, tensor in attachment.state_dict().items() if name.startswith("adapter_projector.")}
    assert same({name: saved.state[name] for name in fresh}, fresh)
    attachment.load_state_dict(saved.state)
    back = converted("export", "peft", tmp_path / "ours", name="back")
    tensors = "adapter_model.safetensors"
    assert same(load_file(back / tensors), load_file(theirs / tensors))


def test_a_tasks_head_comes_along_unless_it_is_left_out(
    tmp_path: Path, tiny_model: DecoderModel, converted: Imported, refused: Refused, pair: list[str]
) -> None:
    method = methods.get("lora", rank=2)
    heads = {"vision_head.weight": (8, 48), "language_head.weight": (8, 48), "logit_scale": ()}
    head = {f"head.{name}": torch.randn(shape) for name, shape in heads.items()}
    state = random_state(method, tiny_model) | head
    own.save(tmp_path / "ours", method_name="lora", method=method, state=state, backbone="tiny", note="")
    written = converted("export", "peft", tmp_path / "ours", name="peft")
    assert same(load_file(written / "head.safetensors"), head)
    peft.PeftModel.from_pretrained(tiny_model.llm, str(written))
    assert same(own.load(converted("import", "peft", written, *pair, name="again")).state, state)
    bare = converted("export", "peft", tmp_path / "ours", "--without-head", name="bare")
    assert not (bare / "head.safetensors").exists()
    save_file(head | {"head.logit_scale": torch.zeros(2)}, written / "head.safetensors")
    line = refused("import", "--format", "peft", written, "--out", tmp_path / "out", *pair)
    assert "'head.logit_scale' has shape (2,), expected ()" in line


def test_an_encoders_experts_keep_their_layers(tmp_path: Path) -> None:
    method = methods.get("lora", rank=2)
    state = random_state(method, tiny_beit3())
    saved = own.Saved("lora", method, state, "tiny-beit3", "")
    peft_folder.write(saved, tmp_path / "peft")
    found = peft_folder.read(tmp_path / "peft")
    assert same(found.state, state)
    assert found.fields["target_modules"] == ["q_proj", "v_proj"]
    config = peft.LoraConfig.from_pretrained(str(tmp_path / "peft"))
    assert config.task_type is None
    assert "encoder.layers.0.self_attn.q_proj.A" in config.target_modules
    assert not (tmp_path / "peft" / "projector.safetensors").exists()


MISTAKES = [
    ({"peft_type": "IA3"}, "peft_type is 'IA3'; only LORA has a method here"),
    ({"bias": "all"}, "bias is 'all', which method lora has not"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save is ['lm_head'], which method lora has not"),
    ({"rank_pattern": {"q_proj": 4}}, "rank_pattern is {'q_proj': 4}, which method lora has not"),
    ({"of_a_later_peft": True}, "of_a_later_peft is True, which method lora has not"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes the frozen weights"),
    ({"target_modules": ".*q_proj"}, "target_modules is '.*q_proj'; write the layers' names as a list"),
    ({"target_modules": []}, "target_modules is []; write the layers' names as a list"),
    ({"r": "many"}, "lora.rank: expected an integer, got 'many'"),
    ({"r": 0}, "lora: rank must be at least 1, got 0"),
    ({"lora_dropout": 1.5}, "lora: dropout must be below 1, got 1.5"),
    ({"target_modules": ["q_prj"]}, "has no linear layer named 'q_prj' (lora.target_modules)"),
    ({"r": 8}, "lora_A.weight' has shape (4, 48), expected (8, 48)"),
    ({"target_modules": ["q_proj"]}, "has unknown 'lora.base_model.model.model.layers.0.self_attn.v_proj"),
]


@pytest.mark.parametrize("options", [OPTIONS["plain"]])
@pytest.mark.parametrize(("change", "message"), MISTAKES, ids=[str(change) for change, _ in MISTAKES])
def test_configurations_that_do_not_fit(
    folder: Path, change: dict[str, Any], message: str, converted: Imported, refused: Refused, pair: list[str]
) -> None:
    written = converted("export", "peft", folder, name="peft")
    path = written / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    line = refused("import", "--format", "peft", written, "--out", written.parent / "out", *pair)
    assert message in line
    assert str(written) in line
    assert not (written.parent / "out").exists()


@pytest.mark.parametrize("options", [OPTIONS["plain"]])
def test_files_that_do_not_fit(folder: Path, converted: Imported, refused: Refused, pair: list[str]) -> None:
    written = converted("export", "peft", folder, name="peft")

    def line(*flags: str, source: Path = written) -> str:
        return refused("import", "--format", "peft", source, "--out", written.parent / "out", *pair, *flags)

    assert "--set lora.rank: " in line("--set", "lora.rank=8")
    assert "says 4; drop this --set" in line("--set", "lora.rank=8")
    assert f"{folder / 'vltune.json'}: is a file; give a folder of peft's" in line(source=folder / "vltune.json")
    assert f"{folder / 'adapter_config.json'}: no such file" in line(source=folder)
    weights, projector = written / "adapter_model.safetensors", written / "projector.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert f"{weights}: no readable safetensors file" in line()
    weights.write_bytes(whole)
    parts = load_file(projector)
    save_file({name: tensor for name, tensor in parts.items() if "fc1" not in name}, projector)
    assert "for lora on llm+clip: lacks 'adapter_projector.fc1.bias' of shape (48,) (and 1 more)" in line()
    (written / "adapter_config.json").write_text("{", encoding="utf-8")
    assert f"{written / 'adapter_config.json'}: no readable JSON" in line()


def test_other_tensors_have_no_place_in_it(tmp_path: Path) -> None:
    saved = own.Saved("lora", methods.get("lora"), {"other.weight": torch.zeros(1)}, "x", "")
    with pytest.raises(CheckpointError, match="peft's format has no place for 'other.weight'"):
        peft_folder.write(saved, tmp_path / "x")
