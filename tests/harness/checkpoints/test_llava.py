"""LLaVA's mm_projector.bin."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import methods
from harness import backbones
from harness.checkpoints import own
from tests.harness.checkpoints.conftest import Imported, Refused, same


@pytest.fixture
def projector() -> nn.Sequential:
    """As LLaVA builds it (`mlp2x_gelu`), for a vision tower of width 32 and a language model of width 48."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 48))


@pytest.mark.parametrize("prefix", ["model.mm_projector.", "mm_projector.", ""])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_there_and_back(
    prefix: str, dtype: torch.dtype, projector: nn.Sequential, tmp_path: Path, converted: Imported, pair: list[str]
) -> None:
    state = {key: tensor.to(dtype) for key, tensor in projector.state_dict().items()}
    torch.save({prefix + key: tensor for key, tensor in state.items()}, tmp_path / "mm_projector.bin")
    folder = converted("import", "llava", tmp_path / "mm_projector.bin", *pair, name="ours")
    back = torch.load(converted("export", "llava", folder, name="back.bin"), weights_only=True)
    assert same(back, {f"model.mm_projector.{key}": tensor for key, tensor in state.items()})


def test_it_computes_what_llava_computes(
    projector: nn.Sequential, tmp_path: Path, converted: Imported, pair: list[str]
) -> None:
    torch.save({f"model.mm_projector.{key}": t for key, t in projector.state_dict().items()}, tmp_path / "p.bin")
    saved = own.load(converted("import", "llava", tmp_path / "p.bin", *pair))
    model = backbones.load(backbones.BackboneSpec("tiny", pair[1], pair[3]))
    attachment = saved.method.attach(model, seed=0)
    attachment.load_state_dict(saved.state)
    patches = torch.randn(2, 16, 32)
    torch.testing.assert_close(attachment.module.adapter_projector(patches), projector(patches))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["weight", "bias"], "a single linear layer; method llava has two"),
        (["0.weight", "0.bias", "2.weight"], "lacks '2.bias'; give LLaVA's mm_projector.bin"),
        (["0.weight", "0.bias", "2.weight", "2.bias", "4.weight"], "has unknown '4.weight'"),
        (["0.weight", "0.bias", "2.weight", "2.bias", "3.bias"], "has unknown '3.bias'"),
    ],
)
def test_other_projectors_are_refused(keys: list[str], message: str, tmp_path: Path, refused: Refused) -> None:
    torch.save({f"model.mm_projector.{key}": torch.zeros(2, 2) for key in keys}, tmp_path / "p.bin")
    assert message in refused("import", "--format", "llava", tmp_path / "p.bin", "--out", tmp_path / "out")


def test_another_shape(projector: nn.Sequential, tmp_path: Path, refused: Refused) -> None:
    torch.save({f"model.mm_projector.{key}": t for key, t in projector.state_dict().items()}, tmp_path / "p.bin")
    line = refused(
        "import", "--format", "llava", tmp_path / "p.bin", "--out", tmp_path / "out", "--backbone", "llama-7b"
    )
    assert "for llava on llama-7b: 'adapter_projector.fc1.weight' has shape (48, 32), expected (4096, 1024)" in line


def test_the_note_says_which_features_it_was_trained_on(
    projector: nn.Sequential, tmp_path: Path, converted: Imported, pair: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({f"model.mm_projector.{key}": t for key, t in projector.state_dict().items()}, tmp_path / "p.bin")
    saved = own.load(converted("import", "llava", tmp_path / "p.bin", *pair))
    assert saved.note.endswith("; trained on features before post_layernorm, which are read behind it here: "
                               "train it further before use")  # fmt: skip
    [line] = caplog.messages
    assert line.startswith(f"{tmp_path / 'p.bin'}: trained on features before post_layernorm")


def test_a_tasks_head_is_left_out_when_asked(
    projector: nn.Sequential, tmp_path: Path, converted: Imported, refused: Refused
) -> None:
    state = {
        f"adapter_projector.fc{2 if key[0] == '2' else 1}{key[1:]}": t for key, t in projector.state_dict().items()
    }
    head = {"head.logit_scale": torch.zeros(())}
    method = methods.get("llava")
    own.save(tmp_path / "x", method_name="llava", method=method, state=state | head, backbone="x", note="")
    line = refused("export", "--format", "llava", tmp_path / "x", "--out", tmp_path / "p.bin")
    assert "has no place for 'head.logit_scale'; leave the task's head out with --without-head or keep our own" in line
    written = torch.load(
        converted("export", "llava", tmp_path / "x", "--without-head", name="p.bin"), weights_only=True
    )
    assert same(written, {f"model.mm_projector.{key}": tensor for key, tensor in projector.state_dict().items()})


def test_a_trained_language_model_has_no_place_in_it(tmp_path: Path, refused: Refused) -> None:
    state = {"llm.lm_head.weight": torch.zeros(2)}
    method = methods.get("llava", train_llm=True)
    own.save(tmp_path / "x", method_name="llava", method=method, state=state, backbone="x", note="")
    line = refused("export", "--format", "llava", tmp_path / "x", "--out", tmp_path / "p.bin")
    assert "mm_projector.bin has no place for 'llm.lm_head.weight'" in line
