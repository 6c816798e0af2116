"""A frozen vision tower and a frozen Llama-like decoder with named sites: the VLModel behind every backbone.

Rows are right-padded: under a causal mask real tokens never see padding and positions start at each row's first
token, so a prediction depends on its row alone and attention needs no mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from harness.backbones.encoding import IGNORED, TextEncoder
from harness.backbones.vision import VisionTower
from methods import Batch, Branch, Handle, ImageHook, Images, Insert, M, Shape, Tower, VLModel


@dataclass(frozen=True)
class Normalisation:
    """Per-channel image constants of the vision tower."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Inputs:
    """What the decoder reads after insertion: right-padded embeddings, real lengths and labels of each row."""

    embeds: Float[Tensor, "B S D"]
    lengths: Int[Tensor, "B"]
    labels: Int[Tensor, "B S"]


@dataclass(frozen=True)
class Decoding:
    """Where greedy decoding stands: next-token logits [B, V], key-value cache, its mask, next positions."""

    logits: Float[Tensor, "B V"]
    cache: DynamicCache
    visible: Int[Tensor, "B W"]
    positions: Int[Tensor, "B"]


class DecoderModel(VLModel):
    """See `methods.VLModel` for the sites and `tasks.Model` for what tasks call.

    `folders` holds the weight files that were loaded; it is empty for random weights.
    """

    def __init__(
        self,
        name: str,
        llm: PreTrainedModel,
        vision: VisionTower,
        text: TextEncoder,
        images: Normalisation,
        folders: tuple[Path, ...] = (),
    ) -> None:
        self.name, self.llm, self.vision, self.text, self.folders = name, llm, vision, text, folders
        self.image_size, self.image_mean, self.image_std = vision.image_size, images.mean, images.std
        self.offers = frozenset({"llm.input", "llm.ffn", "llm.linear", "vision.ffn"})
        if vision.has_cls:
            self.offers |= {"vision.cls"}
        self.shape = Shape(
            llm_width=llm.config.hidden_size,
            llm_layers=llm.config.num_hidden_layers,
            vision_width=vision.width,
            vision_layers=len(vision.blocks),
            patches=vision.patches,
            has_cls=vision.has_cls,
            vocab=llm.config.vocab_size,
        )
        self._image_hook: ImageHook | None = None
        # Token ids that enter rows with and without an image; placeholders stand for the method's own tokens.
        self._with_image: tuple[int, ...] = ()
        self._without_image: tuple[int, ...] = ()
        self._own_tokens = 0
        self._withheld = 0

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.llm.device

    @property
    def dtype(self) -> torch.dtype:
        """What the frozen weights are kept in."""
        return self.llm.dtype

    def parameters(self) -> list[nn.Parameter]:
        """The backbone's own parameters, each once; methods' parameters are not among them."""
        return [*self.llm.parameters(), *self.vision.parameters()]

    # Sites ----------------------------------------------------------------------------------------------------

    def on_images(self, hook: ImageHook, *, insert: Insert | None = None) -> Handle:
        """See `VLModel.on_images`.

        Raises:
            ValueError: a method already reads the images of this backbone.
        """
        if self._image_hook is not None:
            raise ValueError(f"{self.name} already has a method on its images; detach it first")
        insert = insert or Insert()
        self._image_hook, self._own_tokens = hook, insert.tokens
        self._with_image = (*self.text.ids(insert.before), *[self.text.pad_id] * insert.tokens)
        self._without_image = self.text.ids(insert.without_image)
        return _Undo(self._forget_images)

    def on_ffn(self, tower: Tower, layer: int, branch: Branch) -> Handle:
        """See `VLModel.on_ffn`."""
        if tower == "vision":
            reader, writer = self.vision.ffn_site(layer)
        else:
            reader = writer = self.llm.model.layers[layer].mlp
        if reader is writer:
            return reader.register_forward_hook(lambda _, args, out: out + branch(args[0]).to(out.dtype))
        added: list[Tensor] = []
        reading = reader.register_forward_pre_hook(lambda _, args: added.append(branch(args[0])))
        writing = writer.register_forward_hook(lambda _, args, out: out + added.pop().to(out.dtype))
        return _Undo(reading.remove, writing.remove)

    def withhold_images(self) -> Handle:
        """See `VLModel.withhold_images`."""
        self._withheld += 1
        return _Undo(self._stop_withholding)

    def build(self, factory: Callable[[], M], *, seed: int) -> M:
        """See `VLModel.build`."""
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        with torch.random.fork_rng(devices=[]), torch.device("meta" if self.device.type == "meta" else "cpu"):
            torch.default_generator.manual_seed(seed)
            return factory().to(device=self.device, dtype=dtype).eval()

    def _forget_images(self) -> None:
        self._image_hook, self._own_tokens, self._with_image, self._without_image = None, 0, (), ()

    def _stop_withholding(self) -> None:
        self._withheld -= 1

    # Batches --------------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Tokens of text that fit beside what the attached method inserts."""
        return self.text.max_length - self._widest

    def text_length(self, prompt: str, answer: str | None) -> int:
        """Tokens of one row before any cut, to compare with `room`."""
        return self.text.length(prompt, answer)

    def encode(
        self, prompts: Sequence[str], *, answers: Sequence[str] | None, images: Sequence[Tensor | None]
    ) -> Batch:
        """Tokenise and pad texts, and stack the images of the rows that have one.

        Raises:
            ValueError: the three sequences differ in length.
        """
        answered = list(answers) if answers is not None else [None] * len(prompts)
        if not len(prompts) == len(answered) == len(images):
            raise ValueError(f"got {len(prompts)} prompts, {len(answered)} answers, {len(images)} images")
        room = self.room
        encoded = [self.text.row(p, a, room=room) for p, a in zip(prompts, answered, strict=True)]
        lengths = [len(row.ids) for row in encoded]
        width = max(lengths)
        ids = [row.ids + [self.text.pad_id] * (width - len(row.ids)) for row in encoded]
        labels = [row.labels + [IGNORED] * (width - len(row.labels)) for row in encoded]
        rows = [row for row, image in enumerate(images) if image is not None]
        size = self.image_size
        pixels = torch.stack([images[row] for row in rows]) if rows else torch.zeros(0, 3, size, size)  # type: ignore[misc]
        parts = (torch.tensor(ids), torch.tensor(lengths), torch.tensor(labels), pixels, torch.tensor(rows).long())
        return Batch(*(part.to(self.device) for part in parts))

    @property
    def _widest(self) -> int:
        return max(len(self._with_image), len(self._without_image))

    # Forward --------------------------------------------------------------------------------------------------

    def inputs(self, batch: Batch) -> Inputs:
        """Run the vision tower and the method's image hook, and lay out the decoder's input."""
        embeds = self.llm.get_input_embeddings()(batch.input_ids)
        if self._image_hook is None:
            return Inputs(embeds, batch.lengths, batch.labels)
        rows = batch.image_rows[:0] if self._withheld else batch.image_rows
        tokens = self._image_hook(Images(self._features(batch, rows), rows, len(embeds), self.vision.has_cls))
        return self._inserted(batch, embeds, rows, tokens)

    def _features(self, batch: Batch, rows: Tensor) -> Tensor:
        if len(rows):
            return self.vision(batch.pixel_values)  # type: ignore[no-any-return]
        tokens = self.vision.patches + int(self.vision.has_cls)
        return torch.zeros(0, tokens, self.vision.width, device=self.device, dtype=self.dtype)

    def _inserted(self, batch: Batch, embeds: Tensor, rows: Tensor, tokens: Tensor | None) -> Inputs:
        if not self._widest:
            return Inputs(embeds, batch.lengths, batch.labels)
        block = self._insert_block(len(embeds), rows, tokens)
        counts = torch.full((len(embeds),), len(self._without_image), device=self.device)
        counts[rows] = len(self._with_image)
        lengths = batch.lengths + counts
        start, width = len(self.text.bos), embeds.shape[1]
        position = torch.arange(int(lengths.max()), device=self.device).expand(len(embeds), -1)
        inside = (position >= start) & (position < start + counts[:, None])
        shifted = torch.where(position < start, position, position - counts[:, None]).clamp(0, width - 1)
        source = torch.where(inside, width + position - start, shifted)
        laid = torch.cat([embeds, block.to(embeds.dtype)], dim=1)
        laid = laid.gather(1, source[..., None].expand(-1, -1, laid.shape[2]))
        unlabelled = inside | (position >= lengths[:, None])
        return Inputs(laid, lengths, batch.labels.gather(1, shifted).masked_fill(unlabelled, IGNORED))

    def _insert_block(self, batch_size: int, rows: Tensor, tokens: Tensor | None) -> Tensor:
        """[B, widest, D]: the embeddings to insert, left-aligned."""
        with_image, without = (
            torch.tensor(ids, device=self.device).long() for ids in (self._with_image, self._without_image)
        )
        widest = self._widest
        embed = self.llm.get_input_embeddings()
        plain = F.pad(embed(without), (0, 0, 0, widest - len(without))).expand(batch_size, -1, -1)
        if not len(rows):
            return plain
        visual = embed(with_image).expand(len(rows), -1, -1)
        if tokens is not None:
            visual = torch.cat([visual[:, : len(with_image) - self._own_tokens], tokens.to(visual.dtype)], dim=1)
        visual = F.pad(visual, (0, 0, 0, widest - visual.shape[1]))
        return plain.index_copy(0, rows, visual)

    def hidden(self, inputs: Inputs) -> Float[Tensor, "B S D"]:
        """Final hidden states (after the last norm) at every position."""
        return self.llm.model(inputs_embeds=inputs.embeds, use_cache=False).last_hidden_state  # type: ignore[no-any-return]

    def logits(self, batch: Batch) -> Float[Tensor, "B S V"]:
        """Next-token logits at every position, inserted ones included; for tests and studies."""
        return self.llm.lm_head(self.hidden(self.inputs(batch)))  # type: ignore[no-any-return]

    def loss(self, batch: Batch) -> Tensor:
        """See `tasks.Model.loss`. Logits are computed at labelled positions only; 0 when there are none."""
        inputs = self.inputs(batch)
        targets = inputs.labels[:, 1:]
        labelled = targets != IGNORED
        logits = self.llm.lm_head(self.hidden(inputs)[:, :-1][labelled])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits, targets[labelled], reduction="sum") / labelled.sum().clamp(min=1)

    def _last_logits(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        last = hidden[torch.arange(len(hidden), device=self.device), lengths - 1]
        logits = self.llm.lm_head(last)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))  # type: ignore[no-any-return]

    # Prediction -----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def continuation_logprobs(self, batch: Batch, continuations: Sequence[Sequence[str]]) -> list[list[float]]:
        """See `tasks.Model.continuation_logprobs`."""
        ids = [[self.text.continuation(text) for text in texts] for texts in continuations]
        if any(not tokens for row in ids for tokens in row):
            raise ValueError("a continuation has no tokens")
        inputs = self.inputs(batch)
        logprobs = self._last_logits(self.hidden(inputs), inputs.lengths).log_softmax(dim=-1)
        if all(len(tokens) == 1 for row in ids for tokens in row):
            return [[float(logprobs[i, tokens[0]]) for tokens in row] for i, row in enumerate(ids)]
        return [self._score_row(batch, row, tokens) for row, tokens in enumerate(ids)]

    def _score_row(self, batch: Batch, row: int, continuations: list[list[int]]) -> list[float]:
        """Continuations of several tokens: teacher-forced, one at a time."""
        scores = []
        for tokens in continuations:
            state = self.prefill(select(batch, row))
            total = 0.0
            for position, token in enumerate(tokens):
                total += float(state.logits.log_softmax(dim=-1)[0, token])
                if position + 1 < len(tokens):
                    state = self.step(state, torch.tensor([token], device=self.device))
            scores.append(total)
        return scores

    @torch.inference_mode()
    def prefill(self, batch: Batch) -> Decoding:
        """Read the prompts and give the logits of the first new token."""
        inputs = self.inputs(batch)
        cache = DynamicCache(config=self.llm.config)
        out = self.llm.model(inputs_embeds=inputs.embeds, past_key_values=cache, use_cache=True)
        width = inputs.embeds.shape[1]
        visible = (torch.arange(width, device=self.device) < inputs.lengths[:, None]).long()
        return Decoding(self._last_logits(out.last_hidden_state, inputs.lengths), cache, visible, inputs.lengths)

    @torch.inference_mode()
    def step(self, state: Decoding, tokens: Int[Tensor, "B"]) -> Decoding:
        """Append one token to every row and give the logits of the next one."""
        visible = F.pad(state.visible, (0, 1), value=1)
        out = self.llm.model(
            inputs_embeds=self.llm.get_input_embeddings()(tokens[:, None]),
            attention_mask=visible,
            position_ids=state.positions[:, None],
            past_key_values=state.cache,
            use_cache=True,
        )
        ends = torch.ones_like(state.positions)
        logits = self._last_logits(out.last_hidden_state, ends)
        return Decoding(logits, state.cache, visible, state.positions + 1)

    @torch.inference_mode()
    def generate(self, batch: Batch, *, max_new_tokens: int) -> list[str]:
        """See `tasks.Model.generate`."""
        state = self.prefill(batch)
        chosen = [state.logits.argmax(dim=-1)]
        ended = torch.isin(chosen[0], torch.tensor(self.text.eos, device=self.device))
        while len(chosen) < max_new_tokens and not ended.all():
            state = self.step(state, chosen[-1])
            chosen.append(state.logits.argmax(dim=-1))
            ended |= torch.isin(chosen[-1], torch.tensor(self.text.eos, device=self.device))
        return [self.text.decode(row) for row in torch.stack(chosen, dim=1).tolist()]


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


class _Undo:
    """A handle that runs each of its steps once."""

    def __init__(self, *steps: Callable[[], None]) -> None:
        self._steps = list(steps)

    def remove(self) -> None:
        while self._steps:
            self._steps.pop()()
