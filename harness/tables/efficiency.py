"""What a score costs: the primary score by parameters, energy and time of training; and the rate of the training.

Quotients of what a table shows: the mean score over seeds, the medians of the meters. docs/meters.md defines them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Values = Mapping[str, float | None]

DIVISORS: dict[str, tuple[str, float]] = {
    "score_per_million_params": ("trainable_params", 1e6),
    "score_per_kilojoule": ("energy_joules", 1e3),
    "score_per_train_minute": ("train_wall_s", 60.0),
}
"""The meter that the primary score is divided by, and how much of its unit is one."""

LEAST = 1e-30
"""No cost is smaller, unless it is none at all."""

RATE = "train_tflops_per_s"


def efficiency(
    values: Values, reasons: Mapping[str, str], *, primary: str, goal: Literal["max", "min"]
) -> dict[str, float | str]:
    """Each quotient of one row by name, or why it has no value.

    Args:
        values: scores and meters by name, None where there is none.
        reasons: of these.
        primary: the score, of which `goal` is better.
    """
    found: dict[str, float | str] = {}
    for name, (divisor, one) in DIVISORS.items():
        score, cost = values.get(primary), values.get(divisor)
        if goal == "min":
            found[name] = f"lower is better in {primary}: a share of it says nothing"
        elif score is None or cost is None:
            found[name] = _reason(reasons, primary if score is None else divisor)
        else:
            found[name] = score / (cost / one) if abs(cost) >= LEAST else f"{divisor} is 0"
    flops, pace = values.get("train_flops_per_sample"), values.get("train_samples_per_s")
    if flops is None or pace is None:
        found[RATE] = _reason(reasons, "train_flops_per_sample" if flops is None else "train_samples_per_s")
    else:
        found[RATE] = flops * pace * 1e-12
    return found


def _reason(reasons: Mapping[str, str], name: str) -> str:
    return reasons.get(name) or f"no {name}"
