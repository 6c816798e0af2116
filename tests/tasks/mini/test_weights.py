"""The shipped weights of the mini backbone: small, complete, and able to answer from text alone."""

import json
from pathlib import Path

import pytest

from tasks.mini.world import VERSION

ROOT = Path(__file__).resolve().parents[3]
WEIGHTS = ROOT / "harness" / "backbones" / "mini" / "weights"


def test_weights_are_complete_and_small() -> None:
    for name in ("llm/config.json", "llm/model.safetensors", "llm/tokenizer.json", "vision/config.json"):
        assert (WEIGHTS / name).is_file()
    assert (WEIGHTS / "vision/model.safetensors").is_file()
    assert (WEIGHTS / "vision/preprocessor_config.json").is_file()
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= 20 * 2**20


def test_weights_belong_to_this_world() -> None:
    notes = json.loads((WEIGHTS / "PRETRAINING.json").read_text())
    assert notes["world"] == VERSION
    assert notes["text"]["accuracy"]["overall"] > 0.9


def test_shipped_model_answers_from_text() -> None:
    from harness.backbones.mini.pretrain_text import text_accuracy

    accuracy = text_accuracy(WEIGHTS / "llm", 320, seed=11)
    assert accuracy["overall"] > 0.9


def test_tokenizer_encodes_any_text() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(WEIGHTS / "llm")
    specials = (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert specials == (0, 1, 2, 3)
    wild = "Größe 猫 🙂\n\tx"
    assert tokenizer.decode(tokenizer(wild, add_special_tokens=False)["input_ids"]) == wild
    letters = [tokenizer(f" {letter}", add_special_tokens=False)["input_ids"] for letter in "ABCDE"]
    assert all(len(ids) == 1 for ids in letters)
