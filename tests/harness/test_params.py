"""Parameter counts at the papers' sizes, equal to those of the authors' constructors."""

from __future__ import annotations

import json

import pytest

import methods
from harness import params

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
]


@pytest.mark.parametrize("backbone", ["llama-7b", "llama-13b"])
def test_counts_are_exact(backbone: str) -> None:
    cases = [(name, fields, count) for where, name, fields, count in EXACT if where == backbone]
    chosen = [(name, methods.get(name, **fields)) for name, fields, _ in cases]
    rows = params.count(chosen, backbone=backbone, llm=None, vision=None)
    assert [row["trainable_params"] for row in rows] == [count for _, _, count in cases]


def test_json_and_markdown_hold_the_same_numbers() -> None:
    chosen = [("ademvl", methods.get("ademvl")), ("memvp", methods.get("memvp", slots=100))]
    arguments = {"backbone": "llama-7b", "llm": None, "vision": None}
    found = json.loads(params.report(chosen, format="json", **arguments))
    assert found["ademvl"]["trainable_params"] == 4_530_432
    assert found["ademvl"]["total_params"] == 6_738_415_616 + 303_966_208 - 1024 * 768 + 4_530_432
    assert found["memvp"]["trainable_params"] is None
    assert "more than memvp.slots=100" in found["memvp"]["reason"]
    assert "4,530,432" in params.report(chosen, format="md", **arguments)
