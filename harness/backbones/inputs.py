"""What a decoder reads of a batch, once everything is inserted; and one row of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from methods import Batch


@dataclass(frozen=True)
class Inputs:
    """What the decoder reads after insertion: right-padded embeddings, real lengths, labels, visual tokens marked."""

    embeds: Float[Tensor, "B S D"]
    lengths: Int[Tensor, "B"]
    labels: Int[Tensor, "B S"]
    visual: Bool[Tensor, "B S"]


def plain(embeds: Tensor, batch: Batch) -> Inputs:
    """A batch into which nothing is inserted."""
    return Inputs(embeds, batch.lengths, batch.labels, torch.zeros_like(batch.input_ids, dtype=torch.bool))


def select(batch: Batch, row: int) -> Batch:
    """One row of a batch, without its padding."""
    length = int(batch.lengths[row])
    image = batch.image_rows == row
    return Batch(
        batch.input_ids[row : row + 1, :length],
        batch.lengths[row : row + 1],
        batch.labels[row : row + 1, :length],
        batch.pixel_values[image],
        torch.zeros_like(batch.image_rows[image]),
    )
