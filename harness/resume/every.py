"""How often the state of a training is kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Every:
    """How often the training state is kept: after so many steps or minutes, whichever comes first."""

    steps: int | None = None
    minutes: float = 1.0
