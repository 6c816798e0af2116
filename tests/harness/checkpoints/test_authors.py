"""The authors' epoch files of ADEM-VL and MemVP: names, forms, round trips, and every way they can be wrong."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import methods
from harness.checkpoints import authors, own
from tests.golden import GOLDEN, NEEDS_GOLDEN
from tests.harness.checkpoints.conftest import Imported, Refused, random_state, same

if TYPE_CHECKING:
    from harness.backbones.decoder import DecoderModel

FIELDS = {
    "ademvl": {"scales": (16, 4), "hidden": 8, "vision_adapter": 4},
    "memvp": {"slots": 20, "hidden": 8, "vision_adapter": 4},
}
FLAGS = {
    "ademvl": ("--set", "ademvl.scales=16,4", "--set", "ademvl.hidden=8", "--set", "ademvl.vision_adapter=4"),
    "memvp": ("--set", "memvp.slots=20", "--set", "memvp.hidden=8", "--set", "memvp.vision_adapter=4"),
}


def official(name: str, model: DecoderModel) -> dict[str, Tensor]:
    """Random tensors under the authors' names."""
    state = random_state(methods.get(name, **FIELDS[name]), model)
    return {authors.theirs(key): tensor for key, tensor in state.items()}


def epoch_file(path: Path, state: dict[str, Tensor], form: str) -> Path:
    """An authors' file in one of the forms that they come in."""
    prefixed = {f"module.{key}": tensor for key, tensor in state.items()}
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    args = argparse.Namespace(lr=9e-3, output_dir="./out", down_sample_num=[256, 64], no_cls=False, seed=None)
    beside = {"optimizer": optimizer.state_dict(), "epoch": 19, "scaler": {"scale": 65536.0}, "args": args}
    content: dict[str, Any] = {
        "epoch": {"model": state, **beside},
        "distributed": {"model": prefixed, **beside},
        "bare": state,
        "bare distributed": prefixed,
        "whole model": {"model": state | {"layers.0.attention.wq.weight": torch.zeros(2, 2)}},
        "legacy": {"model": state, **beside},
    }[form]
    torch.save(content, path, _use_new_zipfile_serialization=form != "legacy")
    return path


@pytest.mark.parametrize("form", ["epoch", "distributed", "bare", "bare distributed", "whole model", "legacy"])
@pytest.mark.parametrize("name", FIELDS)
def test_there_and_back(
    name: str, form: str, tmp_path: Path, tiny_model: DecoderModel, converted: Imported, pair: list[str]
) -> None:
    state = official(name, tiny_model)
    source = epoch_file(tmp_path / "checkpoint-19.pth", state, form)
    folder = converted("import", name, source, *pair, *FLAGS[name], name="ours")
    saved = own.load(folder)
    assert (saved.method_name, saved.method, saved.backbone) == (name, methods.get(name, **FIELDS[name]), "llm+clip")
    assert saved.note.startswith(f"imported from checkpoint-19.pth (format {name}, sha256 ")
    assert set(saved.state) == {authors.ours(key) for key in state}
    back = converted("export", name, folder, name="back/checkpoint-19.pth")
    assert same(torch.load(back, weights_only=True)["model"], state)


@pytest.mark.realdata
@NEEDS_GOLDEN
@pytest.mark.parametrize(("name", "folder"), [("ademvl", "adem_model"), ("memvp", "memvp_model")])
def test_the_authors_own_names_are_read_and_written(
    name: str, folder: str, tmp_path: Path, converted: Imported
) -> None:
    state = load_file(GOLDEN / folder / "adapters.safetensors")
    source = epoch_file(tmp_path / "checkpoint-19.pth", state, "distributed")
    flags = ["--llm", str(GOLDEN / folder / "hf_llama"), "--vision", str(GOLDEN / folder / "hf_clip_vision")]
    flags += ["--set", f"{name}.hidden=16", "--set", f"{name}.vision_adapter=4"]
    ours = converted("import", name, source, *flags, name="ours")
    back = converted("export", name, ours, name="back.pth")
    assert same(torch.load(back, weights_only=True)["model"], state)


def test_names_are_the_authors() -> None:
    theirs = "backbone.visual.transformer.resblocks.23.adapter_mlp.fc1.weight"
    assert authors.ours(theirs) == "adapter_vision.23.fc1.weight"
    assert authors.theirs("adapter_vision.23.fc1.weight") == theirs
    assert authors.ours("adapter_proj.fc1.weight") == authors.theirs("adapter_proj.fc1.weight")


class Code:
    """What a malicious pickle is made of."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("executed",))


class Settings(argparse.Namespace):
    """No Namespace itself, so not allowed."""


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("value", "named"),
    [(Code(), "posix.mkdir"), (Settings(a=1), "Settings"), (argparse.Namespace(path=Path("x")), "pathlib.")],
    ids=["code", "own class", "path in args"],
)
def test_a_pickle_that_needs_code_is_refused_and_does_not_run(
    value: object, named: str, legacy: bool, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"model": {"adapter_emb1": torch.zeros(2)}, "args": value}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    line = refused("import", "--format", "memvp", "x.pth", "--out", "out", "--backbone", "llama-7b")
    assert line.startswith("x.pth: a pickle that needs code to be run (")
    assert named in line
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kept", [0, 5, 300, -10])
def test_a_truncated_file(kept: int, legacy: bool, tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "checkpoint-19.pth"
    torch.save({"model": {"adapter_emb1": torch.zeros(200)}}, path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[:kept])
    line = refused("import", "--format", "memvp", path, "--out", tmp_path / "out", "--backbone", "llama-7b")
    assert line.startswith(f"{path}: no readable torch file; it is of another kind, cut off or damaged")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no tensors by name"),
        ({"model": [1]}, "holds no tensors by name"),
        ({"model": {"adapter_emb1": 3}}, "'adapter_emb1' is a int, not a tensor"),
        ({"model": {3: torch.zeros(1)}}, "3 is a Tensor, not a tensor"),
        ({"model": {"layers.0.weight": torch.zeros(1)}}, "no name has 'adapter' in it (it holds such as 'layers.0"),
        ({"model": {}}, "no name has 'adapter' in it (it holds nothing)"),
    ],
)
def test_files_of_something_else(content: object, message: str, tmp_path: Path, refused: Refused) -> None:
    torch.save(content, tmp_path / "x.pth")
    line = refused("import", "--format", "memvp", tmp_path / "x.pth", "--out", tmp_path / "out")
    assert message in line
    assert line.startswith(str(tmp_path / "x.pth"))


def test_text_no_file_and_a_folder(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "x.pth").write_text("hello\n", encoding="utf-8")
    argv = ("import", "--format", "ademvl", "--out", tmp_path / "out")
    assert f"{tmp_path / 'x.pth'}: no readable torch file" in refused(*argv, tmp_path / "x.pth")
    assert f"{tmp_path / 'y.pth'}: no such file; give an epoch file" in refused(*argv, tmp_path / "y.pth")
    assert f"{tmp_path}: is a folder; give an epoch file" in refused(*argv, tmp_path)


def test_what_does_not_fit_is_named(
    tmp_path: Path, tiny_model: DecoderModel, refused: Refused, pair: list[str]
) -> None:
    state = official("memvp", tiny_model)

    def line(changed: dict[str, Tensor], *flags: str, format: str = "memvp") -> str:
        torch.save({"model": changed}, tmp_path / "x.pth")
        return refused("import", "--format", format, tmp_path / "x.pth", "--out", tmp_path / "out", *pair, *flags)

    where = f"{tmp_path / 'x.pth'}: for memvp on llm+clip: "
    flags = FLAGS["memvp"]
    shape = line(state | {"adapter_emb1": torch.zeros(1, 20, 47)}, *flags)
    assert shape.startswith(f"{where}'adapter_emb1' has shape (1, 20, 47), expected (1, 20, 48);")
    lacking = line({key: tensor for key, tensor in state.items() if key != "adapter_proj.fc2.bias"}, *flags)
    assert lacking.startswith(f"{where}lacks 'adapter_proj.fc2.bias' of shape (48,);")
    extra = line(state | {"adapter_more": torch.zeros(2)}, *flags)
    assert extra.startswith(f"{where}has unknown 'adapter_more' of shape (2,);")
    assert "'adapter_emb1' has shape (1, 20, 48), expected (1, 320, 48)" in line(state, *flags[2:])
    assert "'adapter_emb2' holds NaN or infinity" in line(
        state | {"adapter_emb2": torch.full((1, 20, 48), torch.nan)}, *flags
    )
    assert "lacks 'adapter_proj_cls.fc1.bias'" in line(state, *FLAGS["ademvl"], format="ademvl")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_method_is_refused(tmp_path: Path, refused: Refused) -> None:
    method = methods.get("memvp")
    own.save(tmp_path / "m", method_name="memvp", method=method, state={}, backbone="x", note="")
    line = refused("export", "--format", "ademvl", tmp_path / "m", "--out", tmp_path / "x.pth")
    assert line == f"{tmp_path / 'm'}: holds method memvp, but ademvl is for ademvl; take --format memvp"
    own.save(tmp_path / "f", method_name="frozen", method=methods.get("frozen"), state={}, backbone="x", note="")
    assert "holds method frozen, but ademvl is for ademvl; no format has it" in refused(
        "export", "--format", "ademvl", tmp_path / "f", "--out", tmp_path / "x.pth"
    )
    head = {"head.weight": torch.zeros(1)}
    own.save(tmp_path / "h", method_name="memvp", method=method, state=head, backbone="x", note="")
    line = refused("export", "--format", "memvp", tmp_path / "h", "--out", tmp_path / "x.pth")
    assert "the authors' format has no place for 'head.weight'; leave the task's head out with --without-head" in line
    assert not (tmp_path / "x.pth").exists()


def test_a_tasks_head_is_left_out_when_asked(
    tmp_path: Path, tiny_model: DecoderModel, converted: Imported, refused: Refused
) -> None:
    method = methods.get("memvp", **FIELDS["memvp"])
    state = random_state(method, tiny_model)
    head = {"head.logit_scale": torch.zeros(())}
    own.save(tmp_path / "x", method_name="memvp", method=method, state=state | head, backbone="x", note="")
    back = converted("export", "memvp", tmp_path / "x", "--without-head", name="x.pth")
    assert same(torch.load(back, weights_only=True)["model"], {authors.theirs(key): t for key, t in state.items()})
    line = refused("export", "--format", "llama", tmp_path / "x", "--out", tmp_path / "y", "--without-head")
    assert line == "--without-head: format llama is a language model without a task; drop --without-head"
