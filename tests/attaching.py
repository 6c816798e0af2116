"""Methods attached to a tiny decoder, and what it is then given to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

import methods
from methods import Attachment, Batch

if TYPE_CHECKING:
    from harness.backbones.decoder import DecoderModel

FIELDS: dict[str, dict[str, Any]] = {
    "ademvl": {"scales": (16, 4)},
    "memvp": {"slots": 20},
    "blind": {"fields": (("scales", (16, 4)),)},
}
TEXTS = ["Question: what?\nResponse:", "Q: a longer one, with more words in it?\nResponse:", "Response:"]


def attach(name: str, model: DecoderModel, seed: int = 0) -> Attachment:
    return methods.get(name, **FIELDS.get(name, {})).attach(model, seed)


def randomise(attachment: Attachment, scale: float = 0.3) -> None:
    """Zero-initialised branches become visible, so that every path matters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in attachment.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)


def pictures(count: int) -> list[torch.Tensor]:
    return list(torch.randn(count, 3, 56, 56, generator=torch.Generator().manual_seed(2)))


def make_batch(model: DecoderModel, rows: Sequence[int] = (0, 1, 2), *, answers: bool = True) -> Batch:
    images = [*pictures(2), None]
    return model.encode(
        [TEXTS[row] for row in rows],
        answers=["The answer is A."] * len(rows) if answers else None,
        images=[images[row] for row in rows],
    )


def runs_of_last_layer(model: DecoderModel) -> list[object]:
    """One entry for each time that the language model's last layer is computed from now on, in a backward pass too."""
    runs: list[object] = []
    # Hooks of the layer itself may stay outside of what is computed again.
    model.llm.model.layers[-1].self_attn.register_forward_pre_hook(lambda attention, _: runs.append(attention))
    return runs
