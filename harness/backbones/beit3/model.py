"""BEiT-3 as a backbone: pictures and texts through the same encoder, apart or fused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from harness.backbones.backbone import Backbone, Undo
from harness.backbones.beit3.multiway import BEiT3, BEiT3Shape, EncoderLayer
from harness.backbones.beit3.text import MAX_LENGTH, PAD, TextIds
from harness.backbones.encoding import IGNORED
from methods import Batch, Branch, Handle, ImageHook, Insert, Reads, Shape, Tower
from methods.kernels import Kernels

HALF = (0.5, 0.5, 0.5)


class EncoderModel(Backbone):
    """See `methods.VLModel` for the sites and `tasks.Model` for what tasks call; it has no decoder to generate with.

    Attributes:
        native_head: `vision_head.weight`, `language_head.weight` and `logit_scale` where the checkpoint holds a
            retrieval head, float32 and frozen; None otherwise.
    """

    def __init__(
        self,
        name: str,
        encoder: BEiT3,
        shape: BEiT3Shape,
        text: TextIds,
        *,
        native_head: dict[str, Tensor] | None = None,
        folders: tuple[Path, ...] = (),
    ) -> None:
        self.name, self.encoder, self.text, self.folders = name, encoder, text, folders
        self.native_head = native_head
        self.kernels = Kernels()
        self.image_size, self.image_mean, self.image_std = shape.image_size, HALF, HALF
        self.embed_width = self.contrast_width = shape.width
        self.offers = frozenset({"encoder.ffn", "encoder.block", "encoder.linear", "encoder.weights", "embed"})
        self.shape = Shape(
            llm_width=shape.width,
            llm_layers=shape.layers,
            vision_width=shape.width,
            vision_layers=shape.layers,
            patches=shape.patches,
            vocab=shape.vocab,
        )
        self._withheld = 0

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.text_embed.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the frozen weights are kept in."""
        return self.encoder.text_embed.weight.dtype

    def parameters(self) -> list[nn.Parameter]:
        """See `Backbone.parameters`."""
        return list(self.encoder.parameters())

    # Sites ----------------------------------------------------------------------------------------------------

    def on_images(self, hook: ImageHook, *, insert: Insert | None = None) -> Handle:
        """Not offered.

        Raises:
            ValueError: always; there is no input sequence of a language model to insert into.
        """
        raise ValueError(f"{self.name} offers no llm.input: it reads images itself")

    def on_ffn(self, tower: Tower, layer: int, branch: Branch, *, reads: Reads = "normed") -> Handle:
        """See `VLModel.on_ffn`."""
        block = self._layer(tower, layer)
        if reads == "normed":
            return block.ffn.register_forward_hook(lambda _, args, out: out + branch(args[0]).to(out.dtype))
        return self._beside(block.final_layer_norm, block.ffn, branch)

    def on_block(self, tower: Tower, layer: int, branch: Branch) -> Handle:
        """See `VLModel.on_block`."""
        block = self._layer(tower, layer)
        return block.register_forward_hook(lambda _, args, out: out + branch(out).to(out.dtype))

    def tower(self, tower: Tower) -> nn.Module:
        """See `VLModel.tower`.

        Raises:
            ValueError: any other tower than `encoder`.
        """
        if tower != "encoder":
            raise ValueError(f"{self.name} has no tower {tower!r}; it has one encoder for both modalities")
        return self.encoder

    def withhold_images(self) -> Handle:
        """See `VLModel.withhold_images`: every picture is read as a grey one (zero after normalisation)."""
        self._withheld += 1
        return Undo(self._stop_withholding)

    def _stop_withholding(self) -> None:
        self._withheld -= 1

    def _layer(self, tower: Tower, layer: int) -> EncoderLayer:
        self.tower(tower)
        return self.encoder.encoder.layers[layer]  # type: ignore[return-value]

    @property
    def layers(self) -> Sequence[nn.Module]:
        """See `Backbone.layers`."""
        return list(self.encoder.encoder.layers)

    @property
    def towers(self) -> Sequence[nn.Module]:
        """See `Backbone.towers`."""
        return (self.encoder,)

    # Batches --------------------------------------------------------------------------------------------------

    @property
    def text_tokens(self) -> int | None:
        """See `Backbone.text_tokens`."""
        return self.text.exact_length

    @property
    def max_length(self) -> int:
        """See `Backbone.max_length`."""
        return MAX_LENGTH

    @property
    def room(self) -> int:
        """See `Backbone.room`."""
        return MAX_LENGTH

    def text_length(self, prompt: str, answer: str | None) -> int:
        """See `Backbone.text_length`."""
        return self.text.length(prompt + (answer or ""))

    def encode(
        self, prompts: Sequence[str], *, answers: Sequence[str] | None, images: Sequence[Tensor | None]
    ) -> Batch:
        """Tokenise and pad prompt + answer, and stack the images of the rows that have one; there are no labels.

        Raises:
            ValueError: the three sequences differ in length.
        """
        answered = answers if answers is not None else [""] * len(prompts)
        if not len(prompts) == len(answered) == len(images):
            raise ValueError(f"got {len(prompts)} prompts, {len(answered)} answers, {len(images)} images")
        encoded = [self.text.row(prompt + answer) for prompt, answer in zip(prompts, answered, strict=True)]
        lengths = torch.tensor([len(ids) for ids in encoded])
        width = int(lengths.max())
        ids = torch.tensor([ids + [PAD] * (width - len(ids)) for ids in encoded])
        pixels, rows = self.stack(images)
        parts = (ids, lengths, torch.full_like(ids, IGNORED), pixels, rows)
        return Batch(*(part.to(self.device) for part in parts))

    # Forward --------------------------------------------------------------------------------------------------

    def hidden(
        self, embeds: Float[Tensor, "B S D"], *, split: int, visible: Bool[Tensor, "B S"] | None
    ) -> Float[Tensor, "B S D"]:
        """Final hidden states of embedded tokens, the first `split` of which are vision tokens."""
        position = torch.arange(embeds.shape[1], device=embeds.device)
        self._visual = (position < split).expand(len(embeds), -1)
        return self.encoder.encoder(embeds, split, visible)  # type: ignore[no-any-return]

    def read_images(self, pixels: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 1+P D"]:
        """Final hidden states of images alone, CLS first."""
        embeds = self._embed_images(pixels)
        return self.hidden(embeds, split=embeds.shape[1], visible=None)

    def read_texts(self, batch: Batch) -> Float[Tensor, "B T D"]:
        """Final hidden states of the texts alone, <s> first."""
        visible = _visible(batch.input_ids, batch.lengths)
        return self.hidden(self.encoder.embed_texts(batch.input_ids, visible), split=0, visible=visible)

    def fused(self, batch: Batch) -> Float[Tensor, "B 1+P+T D"]:
        """Final hidden states of every row's image and text read together, the image first.

        Raises:
            ValueError: a row has no image.
        """
        if len(batch.image_rows) != len(batch.input_ids):
            raise ValueError(
                f"{len(batch.input_ids) - len(batch.image_rows)} of {len(batch.input_ids)} rows have no image"
            )
        vision = self._embed_images(batch.pixel_values[batch.image_rows.argsort()])
        visible = _visible(batch.input_ids, batch.lengths)
        embeds = torch.cat([vision, self.encoder.embed_texts(batch.input_ids, visible)], dim=1)
        seen = torch.cat([visible.new_ones(vision.shape[:2]), visible], dim=1)
        return self.hidden(embeds, split=vision.shape[1], visible=seen)

    def embed(self, batch: Batch) -> Float[Tensor, "B D"]:
        """See `tasks.Model.embed`: of a row with an image only the image is read, its text plays no part."""
        without = torch.ones(len(batch.input_ids), dtype=torch.bool, device=self.device)
        without[batch.image_rows] = False
        text_rows = without.nonzero().flatten()
        first = []
        if len(batch.image_rows):
            first.append(self.read_images(batch.pixel_values)[:, 0])
        if len(text_rows):
            first.append(self.read_texts(_rows(batch, text_rows))[:, 0])
        places = torch.cat([batch.image_rows, text_rows]).argsort()
        hidden = torch.cat(first)[places]
        return hidden.to(torch.promote_types(hidden.dtype, torch.float32))

    def _embed_images(self, pixels: Tensor) -> Tensor:
        return self.encoder.embed_images(torch.zeros_like(pixels) if self._withheld else pixels)


def _visible(ids: Tensor, lengths: Tensor) -> Tensor:
    """[B, T] bool: real tokens."""
    return torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]


def _rows(batch: Batch, rows: Tensor) -> Batch:
    """Some rows of a batch, as texts without images."""
    none = batch.image_rows[:0]
    return Batch(batch.input_ids[rows], batch.lengths[rows], batch.labels[rows], batch.pixel_values[:0], none)
