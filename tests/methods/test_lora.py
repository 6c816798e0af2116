"""LoRA: peft's own implementation, its files and its options, and the backbone back as it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import methods
from methods.lora import PREFIX, LoRA, linear_names
from tests.attaching import make_batch, randomise

if TYPE_CHECKING:
    from harness.backbones.decoder import DecoderModel

OPTIONS: list[dict[str, Any]] = [
    {},
    {"dora": True},
    {"rslora": True, "alpha": 3.0},
    {"rank": 2, "target_modules": ("q_proj", "k_proj", "o_proj", "up_proj", "down_proj")},
]


def linear_count(model: DecoderModel) -> int:
    return sum(isinstance(module, torch.nn.Linear) for module in model.llm.modules())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for what is now deprecated
@pytest.mark.parametrize("options", OPTIONS)
def test_a_saved_state_is_loaded_by_peft_itself(
    options: dict[str, Any], tiny_model: DecoderModel, tiny_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    method = LoRA(**options)
    attachment = method.attach(tiny_model, 0)
    randomise(attachment)
    ids = torch.arange(4, 24)[None]
    expected = tiny_model.llm(input_ids=ids).logits
    state = {name: tensor for name, tensor in attachment.state_dict().items() if name.startswith(PREFIX)}
    save_file(
        {name.removeprefix(PREFIX): tensor.contiguous() for name, tensor in state.items()},
        tmp_path / "adapter_model.safetensors",
    )
    attachment.detach()
    names = linear_names(tiny_model.llm, method.target_modules)
    method.peft_config(names, decoder=True).save_pretrained(str(tmp_path))
    plain = AutoModelForCausalLM.from_pretrained(tiny_folders[0])
    loaded = peft.PeftModel.from_pretrained(plain, str(tmp_path)).eval()
    torch.testing.assert_close(loaded(input_ids=ids).logits, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(tiny_model.llm(input_ids=ids).logits, expected)


def test_detach_puts_the_linear_layers_back(tiny_model: DecoderModel) -> None:
    modules, names = list(map(id, tiny_model.llm.modules())), list(vars(tiny_model.llm))
    for _ in range(2):
        attachment = LoRA().attach(tiny_model, 0)
        assert linear_count(tiny_model) > 2 * 7 + 1
        attachment.detach()
        attachment.detach()
    assert list(map(id, tiny_model.llm.modules())) == modules
    assert list(vars(tiny_model.llm)) == names


def test_only_the_low_ranks_and_the_projector_are_trained_in_float32(tiny_folders: tuple[Path, Path]) -> None:
    from harness import backbones

    llm, vision = map(str, tiny_folders)
    model = backbones.load(backbones.BackboneSpec("tiny", llm, vision), precision="bf16")
    attachment = LoRA(rank=3).attach(model, 0)
    named = dict(attachment.named_parameters())
    assert {p.dtype for p in named.values()} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    low_rank = [p for name, p in named.items() if name.startswith(PREFIX)]
    assert sum(p.numel() for p in low_rank) == 2 * (2 * 3 * 48 * 2)  # layers x (A and B of q and v)
    assert {name for name in named if not name.startswith(PREFIX)} == {
        f"adapter_projector.{part}" for part in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
    }


def test_training_mode_switches_the_updates_dropout_only(tiny_model: DecoderModel) -> None:
    attachment = LoRA(dropout=0.5).attach(tiny_model, 0)
    randomise(attachment)
    batch = make_batch(tiny_model)
    still = [tiny_model.logits(batch) for _ in range(2)]
    assert torch.equal(still[0], still[1])
    attachment.train(True)
    assert not torch.equal(tiny_model.logits(batch), tiny_model.logits(batch))
    attachment.train(False)
    assert torch.equal(tiny_model.logits(batch), still[0])


def test_a_target_that_names_no_layer_is_a_reason_to_skip(tiny_model: DecoderModel) -> None:
    reason = methods.get("lora", target_modules=("q_proj", "query")).unmet(tiny_model)
    assert reason is not None
    assert "'query'" in reason
    assert "lora.target_modules" in reason
