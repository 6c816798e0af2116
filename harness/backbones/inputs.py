"""What a decoder reads of a batch, with what a method inserts; and one row of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from harness.backbones.encoding import IGNORED
from methods import Batch


@dataclass(frozen=True)
class Inputs:
    """What the decoder reads after insertion: right-padded embeddings, real lengths, labels, visual tokens marked."""

    embeds: Float[Tensor, "B S D"]
    lengths: Int[Tensor, "B"]
    labels: Int[Tensor, "B S"]
    visual: Bool[Tensor, "B S"]


@dataclass(frozen=True)
class Insertion:
    """What enters every row after its first tokens; see `methods.Insert`.

    Attributes:
        with_image, without_image: token ids for rows with and without an image; placeholders stand for the method's
            own tokens, which come last.
        own_tokens: how many of those there are.
    """

    with_image: tuple[int, ...] = ()
    without_image: tuple[int, ...] = ()
    own_tokens: int = 0

    @property
    def widest(self) -> int:
        """Positions that a row may need for it."""
        return max(len(self.with_image), len(self.without_image))

    def into(
        self,
        batch: Batch,
        embeds: Float[Tensor, "B T D"],
        rows: Int[Tensor, "N"],
        tokens: Float[Tensor, "N K D"] | None,
        *,
        start: int,
        embed: nn.Module,
    ) -> Inputs:
        """Lay out a batch with this inserted at `start`.

        Args:
            embeds: the batch's embeddings, as `embed` gives them.
            rows: which rows have an image. tokens: the method's own for each; None for the placeholders.
        """
        if not self.widest:
            return plain(embeds, batch)
        block = self._block(len(embeds), rows, tokens, embed)
        counts = torch.full((len(embeds),), len(self.without_image), device=embeds.device)
        counts[rows] = len(self.with_image)
        lengths = batch.lengths + counts
        width = embeds.shape[1]
        position = torch.arange(int(lengths.max()), device=embeds.device).expand(len(embeds), -1)
        inside = (position >= start) & (position < start + counts[:, None])
        shifted = torch.where(position < start, position, position - counts[:, None]).clamp(0, width - 1)
        source = torch.where(inside, width + position - start, shifted)
        laid = torch.cat([embeds, block.to(embeds.dtype)], dim=1)
        laid = laid.gather(1, source[..., None].expand(-1, -1, laid.shape[2]))
        unlabelled = inside | (position >= lengths[:, None])
        labels = batch.labels.gather(1, shifted).masked_fill(unlabelled, IGNORED)
        visual = torch.zeros_like(inside)
        end = start + len(self.with_image)
        visual[rows, end - self.own_tokens : end] = True
        return Inputs(laid, lengths, labels, visual)

    def _block(self, batch_size: int, rows: Tensor, tokens: Tensor | None, embed: nn.Module) -> Tensor:
        """[B, widest, D]: the embeddings to insert, left-aligned."""
        with_image, without = (
            torch.tensor(ids, device=rows.device).long() for ids in (self.with_image, self.without_image)
        )
        text = F.pad(embed(without), (0, 0, 0, self.widest - len(without))).expand(batch_size, -1, -1)
        if not len(rows):
            return text
        visual = embed(with_image).expand(len(rows), -1, -1)
        if tokens is not None:
            visual = torch.cat([visual[:, : len(with_image) - self.own_tokens], tokens.to(visual.dtype)], dim=1)
        visual = F.pad(visual, (0, 0, 0, self.widest - visual.shape[1]))
        return text.index_copy(0, rows, visual)


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
