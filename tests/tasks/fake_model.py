"""A model for tests of tasks: it remembers what it was asked and answers what the test says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class FakeModel:
    """Gives back what it was asked to encode; log-probabilities and outputs are set by the test."""

    image_size: int = 8
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    embed_width: int = 4
    head: None = None
    logprobs: list[list[float]] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)

    def encode(
        self, prompts: Sequence[str], *, answers: Sequence[str] | None, images: Sequence[Tensor | None]
    ) -> dict[str, Any]:
        return {"prompts": prompts, "answers": answers, "images": images}

    def loss(self, batch: Any) -> Tensor:
        return torch.tensor(float(len(batch["prompts"])))

    def continuation_logprobs(self, batch: Any, continuations: Sequence[Sequence[str]]) -> list[list[float]]:
        self.asked.append(continuations)
        return self.logprobs

    def generate(self, batch: Any, **options: Any) -> list[str]:
        self.asked.append(options)
        return self.outputs
