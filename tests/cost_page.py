"""The tables of docs/cost.md, from the FLOPs that `vltune flops --format json` counted."""

from __future__ import annotations

import json
from pathlib import Path

from harness.meters import growth

COUNTED = Path(__file__).parents[1] / "results" / "cost"
PARAMETERS = 6_738_415_616, 13_015_864_320
"""Of the language models of 7B and 13B."""
TERA, EXA = 1e12, 1e18
SAMPLES, PICTURED, TOKENS = 20 * 12_726, 6_218 / 12_726, 75
"""The papers' training on ScienceQA; tokens are the mean of the test split with its hints, in SmolLM2's vocabulary."""
PRINTED = {"ademvl": (54.93, 4.3), "memvp": (54.81, 5.1), "lora": (110.44, 8.8)}
"""ADEM-VL's table 5: FLOPs of 7B in TFLOP, and GPU hours on ScienceQA."""
WATTS = 400


def costs(backbone: str = "llama-7b") -> list[growth.Cost]:
    """All that was counted."""
    found = json.loads((COUNTED / f"{backbone}.json").read_text(encoding="utf-8"))["costs"]
    return [growth.Cost(**cost) for cost in found]


def growth_table() -> str:
    """What `vltune flops` prints of it."""
    return growth.table(costs())


def models() -> str:
    """A training step at 256 tokens with a picture, on both language models."""
    small, large = (
        {cost.method: cost.train for cost in costs(name) if (cost.text_tokens, cost.images) == (256, 1)}
        for name in ("llama-7b", "llama-13b")
    )
    return "\n".join(
        f"| `{name}` | {small[name] / TERA:.2f} | {large[name] / TERA:.2f} | "
        f"N^{growth.exponent(PARAMETERS, (small[name], large[name])):.2f} |"
        for name in large
    )


def papers() -> str:
    """Reading 16 prompts of 256 tokens, against what is printed."""
    found = {(cost.method, cost.images): 16 * cost.prefill / TERA for cost in costs() if cost.text_tokens == 256}
    return "\n".join(
        f"| `{name}` | {found[name, 1]:.1f} | {found[name, 0]:.1f} | {printed:.2f} |"
        for name, (printed, _) in PRINTED.items()
    )


def reproduction() -> str:
    """A training on ScienceQA; between 64 and 128 tokens on a straight line."""
    found = {(cost.method, cost.text_tokens, cost.images): cost.train for cost in costs()}
    lines = []
    for name in ("ademvl", "memvp", "mwa", "lora", "llava"):
        short, long = (
            PICTURED * found[name, tokens, 1] + (1 - PICTURED) * found[name, tokens, 0] for tokens in (64, 128)
        )
        each = short + (long - short) * (TOKENS - 64) / 64
        hours = PRINTED[name][1] if name in PRINTED else None
        printed = ("–", "–", "–")
        if hours is not None:
            rate = each * SAMPLES / (hours * 3600) / TERA
            printed = (f"{hours}", f"{rate:.0f}", f"{hours * WATTS / 1e3:.1f}")
        lines.append(f"| `{name}` | {each / TERA:.2f} | {each * SAMPLES / EXA:.2f} | {' | '.join(printed)} |")
    return "\n".join(lines)
