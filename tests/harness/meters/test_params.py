"""Parameter counts at the papers' sizes, equal to those of the authors' constructors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import methods
import tasks
from harness import cli
from harness.backbones import BackboneSpec
from harness.backbones.beit3.load import SHAPES
from harness.meters import params
from tests.tiny_beit3 import TINY, tiny_beit3, write_checkpoint

EXACT = [
    ("llama-7b", "ademvl", {}, 4_530_432),
    ("llama-7b", "ademvl", {"cls": False}, 3_870_848),
    ("llama-7b", "ademvl", {"vision_adapter": 8}, 4_333_824),
    ("llama-7b", "memvp", {}, 3_879_040),
    ("llama-13b", "ademvl", {}, 5_449_984),
    ("llama-13b", "ademvl", {"cls": False}, 4_658_304),
    ("llama-13b", "memvp", {"slots": 400}, 5_487_744),
    ("llama-13b", "memvp", {}, 4_668_544),
    ("llama-7b", "frozen", {}, 0),
    ("llama-7b", "blind", {}, 4_530_432),
    ("llama-7b", "llava", {}, 20_979_712),  # 1024 x 4096 + 4096, 4096 x 4096 + 4096
    ("llama-7b", "llava", {"train_llm": True}, 20_979_712 + 6_738_415_616),
    ("llama-7b", "lora", {}, 20_979_712 + 4_194_304),  # 32 layers x (q, v) x (A, B) x 8 x 4096
    ("llama-7b", "lora", {"hidden": 128, "rank": 4}, 659_584 + 2_097_152),
    ("llama-7b", "full", {"train_vision": False}, 20_979_712 + 6_738_415_616),
]


@pytest.mark.parametrize("backbone", ["llama-7b", "llama-13b"])
def test_counts_are_exact(backbone: str) -> None:
    cases = [(name, fields, count) for where, name, fields, count in EXACT if where == backbone]
    chosen = [(name, methods.get(name, **fields)) for name, fields, _ in cases]
    rows = params.count(chosen, BackboneSpec(backbone, weights="random"))
    assert [row["trainable_params"] for row in rows] == [count for _, _, count in cases]


def test_json_and_markdown_hold_the_same_numbers() -> None:
    chosen = [("ademvl", methods.get("ademvl")), ("memvp", methods.get("memvp", slots=100))]
    spec = BackboneSpec("llama-7b", weights="random")
    found = json.loads(params.report(chosen, spec, task=None, format="json"))
    assert found["ademvl"]["trainable_params"] == 4_530_432
    assert found["ademvl"]["total_params"] == 6_738_415_616 + 303_966_208 - 1024 * 768 + 4_530_432
    assert found["memvp"]["trainable_params"] is None
    assert "more than memvp.slots=100" in found["memvp"]["reason"]
    assert "4,530,432" in params.report(chosen, spec, task=None, format="md")


def test_the_heads_of_a_checkpoint_are_not_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SHAPES, "beit3-base", TINY)
    heads = {"vision_head.weight": torch.ones(64, 64), "language_head.weight": torch.ones(64, 64)}
    full = tmp_path / "full.pth"
    write_checkpoint(tiny_beit3(), full, heads | {"logit_scale": torch.tensor(2.5)})
    bare = write_checkpoint(tiny_beit3(), tmp_path / "bare.pth")

    def counted(*flags: str) -> dict[str, int]:
        argv = ["params", "--methods", "mwa,full,frozen", "--backbone", "beit3-base", "--task", "retrieval"]
        assert cli.main([*argv, "--format", "json", *flags]) == 0
        return {name: row["task_params"] for name, row in json.loads(capsys.readouterr().out).items()}

    new = 2 * 64**2 + 1
    assert counted() == counted("--encoder", str(bare)) == {"mwa": new, "full": new, "frozen": 0}
    assert counted("--encoder", str(full)) == {"mwa": 0, "full": new, "frozen": 0}  # `full` trains those that are there
    nowhere = str(tmp_path / "nowhere.pth")
    assert cli.main(["params", "--methods", "mwa", "--backbone", "beit3-base", "--encoder", nowhere]) == 2
    assert capsys.readouterr().err == (
        f"vltune: error: --encoder {nowhere}: no such file; give an official BEiT-3 .pth or a .safetensors file\n"
    )


@pytest.mark.parametrize(("backbone", "count"), [("beit3-base", 59_122_176), ("beit3-large", 207_989_760)])
def test_mwa_is_counted_with_and_without_new_heads(backbone: str, count: int) -> None:
    spec, width = BackboneSpec(backbone, weights="random"), {"beit3-base": 768, "beit3-large": 1024}[backbone]
    chosen = [("mwa", methods.get("mwa"))]
    assert params.count(chosen, spec)[0]["trainable_params"] == count
    [row] = params.count(chosen, spec, task=tasks.get("retrieval"))
    assert row["task_params"] == 2 * width**2 + 1
    assert row["trainable_params"] == count + row["task_params"]
    assert row["trainable_params"] in (60_301_825, 210_086_913)
