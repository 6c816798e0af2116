"""The learning rate of both trainings that make the shipped weights."""

from __future__ import annotations

import math

LEAST = 0.02


def rate_factor(step: int, *, warmup: int, steps: int) -> float:
    """Factor on the peak rate at optimiser step `step` (from 0): linear warm-up, then cosine to `LEAST`."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return LEAST + (1 - LEAST) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
