"""A frozen vision tower and a frozen Llama-like decoder with named sites: the VLModel behind every backbone.

Rows are right-padded: under a causal mask real tokens never see padding and positions start at each row's first
token, so a prediction depends on its row alone and attention needs no mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import Cache, DynamicCache, PreTrainedModel

from harness.backbones.backbone import Backbone, Undo
from harness.backbones.decoding import Decoding, beam_search, greedy, score_continuations
from harness.backbones.encoding import IGNORED, TextEncoder
from harness.backbones.features import FeatureStore, picture_keys
from harness.backbones.inputs import Inputs, Insertion, plain
from harness.backbones.vision import VisionTower
from methods import Batch, Branch, Handle, ImageHook, Images, Insert, Reads, Shape, Tower
from methods.kernels import Kernels


@dataclass(frozen=True)
class Normalisation:
    """Per-channel image constants of the vision tower."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class DecoderModel(Backbone):
    """See `methods.VLModel` for the sites and `tasks.Model` for what tasks call."""

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
        self.kernels = Kernels()
        self.embed_width = llm.config.hidden_size
        self.offers = frozenset(
            {"llm.input", "llm.ffn", "llm.block", "llm.linear", "llm.weights", "vision.ffn", "vision.weights"}
            | {"decode", "embed", "embed.fused"}
        )
        if vision.has_cls:
            self.offers |= {"vision.cls"}
        self.shape = Shape(
            llm_width=llm.config.hidden_size,
            llm_layers=llm.config.num_hidden_layers,
            vision_width=vision.width,
            vision_layers=len(vision.blocks),
            patches=vision.patches,
            vocab=llm.config.vocab_size,
        )
        self._image_hook: ImageHook | None = None
        self._insertion = Insertion()
        self._withheld = 0
        self._vision_branches = 0
        self._features_kept: FeatureStore | None = None
        self._compiled: Callable[..., Any] | None = None
        self._uncompiled: Callable[..., Any] | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.llm.device

    @property
    def dtype(self) -> torch.dtype:
        """What the frozen weights are kept in."""
        return self.llm.dtype

    @property
    def text_tokens(self) -> int | None:
        """See `Backbone.text_tokens`."""
        return self.text.exact_length

    @property
    def max_length(self) -> int:
        """See `Backbone.max_length`."""
        return self.text.max_length

    def parameters(self) -> list[nn.Parameter]:
        """See `Backbone.parameters`."""
        return [*self.llm.parameters(), *self.vision.parameters()]

    @property
    def layers(self) -> Sequence[nn.Module]:
        """See `Backbone.layers`: the language model's. Pictures do not pass the vision tower in every forward."""
        return list(self.llm.model.layers)

    @property
    def towers(self) -> Sequence[nn.Module]:
        """See `Backbone.towers`."""
        return self.llm, self.vision

    # Sites ----------------------------------------------------------------------------------------------------

    def on_images(self, hook: ImageHook, *, insert: Insert | None = None) -> Handle:
        """See `VLModel.on_images`.

        Raises:
            ValueError: a method already reads the images of this backbone.
        """
        if self._image_hook is not None:
            raise ValueError(f"{self.name} already has a method on its images; detach it first")
        insert = insert or Insert()
        self._image_hook = hook
        with_image = (*self.text.ids(insert.before), *[self.text.pad_id] * insert.tokens)
        self._insertion = Insertion(with_image, self.text.ids(insert.without_image), insert.tokens)
        return Undo(self._forget_images)

    def on_ffn(self, tower: Tower, layer: int, branch: Branch, *, reads: Reads = "normed") -> Handle:
        """See `VLModel.on_ffn`."""
        if tower == "vision":
            norm, reader, writer = self.vision.ffn_site(layer)
        else:
            block = self.llm.model.layers[layer]
            norm, reader, writer = block.post_attention_layernorm, block.mlp, block.mlp
        if reads == "raw":
            reader = norm
        if reader is writer:
            hook = reader.register_forward_hook(lambda _, args, out: out + branch(args[0]).to(out.dtype))
            return self._counted(tower, hook.remove)
        return self._counted(tower, self._beside(reader, writer, branch).remove)

    def on_block(self, tower: Tower, layer: int, branch: Branch) -> Handle:
        """See `VLModel.on_block`."""
        blocks = self.vision.blocks if tower == "vision" else self.llm.model.layers
        hook = blocks[layer].register_forward_hook(lambda _, args, out: out + branch(out).to(out.dtype))
        return self._counted(tower, hook.remove)

    def _counted(self, tower: Tower, *undo: Callable[[], None]) -> Handle:
        """A branch's handle; while one sits in the vision tower, a picture's features change as it is trained."""
        if tower != "vision":
            return Undo(*undo)
        self._vision_branches += 1
        return Undo(*undo, self._forget_branch)

    def _forget_branch(self) -> None:
        self._vision_branches -= 1

    def tower(self, tower: Tower) -> nn.Module:
        """See `VLModel.tower`."""
        return self.vision if tower == "vision" else self.llm

    def withhold_images(self) -> Handle:
        """See `VLModel.withhold_images`."""
        self._withheld += 1
        return Undo(self._stop_withholding)

    def _forget_images(self) -> None:
        self._image_hook, self._insertion = None, Insertion()

    def _stop_withholding(self) -> None:
        self._withheld -= 1

    # Ways to run ----------------------------------------------------------------------------------------------

    def keep_features(self, folder: Path, *, pictures: int, name: str | None = None) -> Handle:
        """See `Backbone.keep_features`."""
        if self._vision_branches or any(p.requires_grad for p in self.vision.parameters()):
            return Undo()
        self._features_kept = FeatureStore(folder, capacity=pictures, name=name)
        return Undo(self._forget_features, self._features_kept.close)

    def _forget_features(self) -> None:
        self._features_kept = None

    def recompute(self) -> Handle:
        """See `Backbone.recompute`."""
        # Set on the layers themselves: the model's own switch has another name in every version of transformers. A
        # layer heeds it only while it says that it trains; what is inside it stays in evaluation mode.
        for layer in self.llm.model.layers:
            layer.gradient_checkpointing, layer._gradient_checkpointing_func, layer.training = True, self._again, True
        return Undo(self._keep_activations)

    def _again(self, layer: Callable[..., Any], *args: Any) -> Any:
        """A layer that is computed again in the backward pass, with what belonged to its own forward."""
        if not torch.compiler.is_compiling():
            return self._again_in_python(layer, *args)
        # A graph cannot go back to what belonged to a forward.
        if self._slots and self._uncompiled is not None:
            return self._uncompiled(layer, *args)
        return checkpoint(layer, *args, use_reentrant=False)

    def _again_in_python(self, layer: Callable[..., Any], *args: Any) -> Any:
        return checkpoint(layer, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), self._as_now()))

    def _keep_activations(self) -> None:
        for layer in self.llm.model.layers:
            layer.gradient_checkpointing = layer.training = False
            layer._gradient_checkpointing_func = None

    def compile(self) -> Handle:
        """See `Backbone.compile`."""
        self._compiled = torch.compile(self.llm.model, dynamic=True)
        self._uncompiled = torch.compiler.disable(self._again_in_python)
        return Undo(self._forget_compiled)

    def _forget_compiled(self) -> None:
        self._compiled = self._uncompiled = None

    # Batches --------------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """See `Backbone.room`."""
        return self.text.max_length - self._insertion.widest

    def text_length(self, prompt: str, answer: str | None) -> int:
        """See `Backbone.text_length`."""
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
        pixels, rows = self.stack(images)
        parts = (torch.tensor(ids), torch.tensor(lengths), torch.tensor(labels), pixels, rows)
        keys = () if self._features_kept is None else picture_keys(pixels)
        return Batch(*(part.to(self.device) for part in parts), image_keys=keys)

    # Forward --------------------------------------------------------------------------------------------------

    def inputs(self, batch: Batch) -> Inputs:
        """Run the vision tower and the method's image hook, and lay out the decoder's input."""
        embed = self.llm.get_input_embeddings()
        embeds = embed(batch.input_ids)
        if self._image_hook is None:
            return plain(embeds, batch)
        rows = batch.image_rows[:0] if self._withheld else batch.image_rows
        tokens = self._image_hook(Images(self._features(batch, rows), rows, len(embeds), self.vision.has_cls))
        return self._insertion.into(batch, embeds, rows, tokens, start=len(self.text.bos), embed=embed)

    def _features(self, batch: Batch, rows: Tensor) -> Tensor:
        if len(rows) and self._features_kept is not None and batch.image_keys:
            return self._features_kept.features(batch.pixel_values, batch.image_keys, self.vision)
        if len(rows):
            return self.vision(batch.pixel_values)  # type: ignore[no-any-return]
        tokens = self.vision.patches + int(self.vision.has_cls)
        return torch.zeros(0, tokens, self.vision.width, device=self.device, dtype=self.dtype)

    def hidden(self, inputs: Inputs) -> Float[Tensor, "B S D"]:
        """Final hidden states (after the last norm) at every position."""
        return self._read(inputs.embeds, inputs.visual, use_cache=False)

    def _read(self, embeds: Tensor, visual: Tensor, **options: Any) -> Tensor:
        self._visual = visual
        run = self._compiled if self._compiled is not None and torch.is_grad_enabled() else self.llm.model
        return run(inputs_embeds=embeds, **options).last_hidden_state  # type: ignore[no-any-return]

    def logits(self, batch: Batch) -> Float[Tensor, "B S V"]:
        """Next-token logits at every position, inserted ones included; for tests and studies."""
        return self.llm.lm_head(self.hidden(self.inputs(batch)))  # type: ignore[no-any-return]

    def loss(self, batch: Batch) -> Tensor:
        """See `tasks.Model.loss`."""
        return self.loss_of(self.inputs(batch))

    def loss_of(self, inputs: Inputs) -> Tensor:
        """The loss of a laid-out batch. Logits are computed at labelled positions only; 0 when there are none."""
        targets = inputs.labels[:, 1:]
        labelled = targets != IGNORED
        logits = self._logits(self.hidden(inputs)[:, :-1][labelled])
        return F.cross_entropy(logits, targets[labelled], reduction="sum") / labelled.sum().clamp(min=1)

    def _last_logits(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        return self._logits(hidden[torch.arange(len(hidden), device=self.device), lengths - 1])

    def _logits(self, hidden: Tensor) -> Tensor:
        """In float32 at least."""
        logits = self.llm.lm_head(hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))  # type: ignore[no-any-return]

    # Prediction -----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def continuation_logprobs(self, batch: Batch, continuations: Sequence[Sequence[str]]) -> list[list[float]]:
        """See `tasks.Model.continuation_logprobs`."""
        ids = [[self.text.continuation(text) for text in texts] for texts in continuations]
        if any(not tokens for row in ids for tokens in row):
            raise ValueError("a continuation has no tokens")
        if any(len(tokens) > 1 for row in ids for tokens in row):
            return score_continuations(self, batch, ids)
        inputs = self.inputs(batch)
        logprobs = self._last_logits(self.hidden(inputs), inputs.lengths).log_softmax(dim=-1)
        return [[float(logprobs[i, tokens[0]]) for tokens in row] for i, row in enumerate(ids)]

    @torch.inference_mode()
    def prefill(self, batch: Batch) -> Decoding:
        """Read the prompts and give the logits of the first new token."""
        inputs = self.inputs(batch)
        cache = DynamicCache(config=self.llm.config)
        hidden = self._read(inputs.embeds, inputs.visual, past_key_values=cache, use_cache=True)
        width = inputs.embeds.shape[1]
        visible = (torch.arange(width, device=self.device) < inputs.lengths[:, None]).long()
        return Decoding(self._last_logits(hidden, inputs.lengths), cache, visible, inputs.lengths)

    @torch.inference_mode()
    def step(self, state: Decoding, tokens: Int[Tensor, "B"]) -> Decoding:
        """Append one token to every row and give the logits of the next one."""
        visible = F.pad(state.visible, (0, 1), value=1)
        logits = self.next_logits(
            tokens,
            visual=torch.zeros_like(tokens[:, None], dtype=torch.bool),
            attention_mask=visible,
            position_ids=state.positions[:, None],
            cache=state.cache,
        )
        return Decoding(logits, state.cache, visible, state.positions + 1)

    @torch.inference_mode()
    def following_logits(
        self, state: Decoding, tokens: Int[Tensor, "B S"], asked: Bool[Tensor, "B S"]
    ) -> Float[Tensor, "N V"]:
        """Append given tokens to the rows, into the cache of `state`, and give the logits behind the N `asked` ones."""
        hidden = self._read(
            self.llm.get_input_embeddings()(tokens),
            torch.zeros_like(tokens, dtype=torch.bool),
            attention_mask=F.pad(state.visible, (0, tokens.shape[1]), value=1),
            position_ids=state.positions[:, None] + torch.arange(tokens.shape[1], device=self.device),
            past_key_values=state.cache,
            use_cache=True,
        )
        return self._logits(hidden[asked])

    def next_logits(
        self,
        tokens: Int[Tensor, "B"],
        *,
        visual: Bool[Tensor, "B 1"],
        attention_mask: Tensor,
        position_ids: Int[Tensor, "B 1"],
        cache: Cache,
    ) -> Float[Tensor, "B V"]:
        """Read one more token of every row into `cache`, in place, and give the logits of the next one.

        `visual`, all false, is what the layers see as `visual_tokens`; they may ask the device about a new tensor.
        """
        hidden = self._read(
            self.llm.get_input_embeddings()(tokens[:, None]),
            visual,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return self._last_logits(hidden, torch.ones_like(tokens))

    @torch.inference_mode()
    def generate(self, batch: Batch, *, max_new_tokens: int, beams: int = 1, length_penalty: float = 1.0) -> list[str]:
        """See `tasks.Model.generate`."""
        if beams > 1:
            chosen = beam_search(self, batch, max_new_tokens=max_new_tokens, beams=beams, length_penalty=length_penalty)
        else:
            chosen = greedy(self, batch, max_new_tokens=max_new_tokens)
        return [self.text.decode(row) for row in chosen]

    def embed(self, batch: Batch) -> Float[Tensor, "B D"]:
        """See `tasks.Model.embed`."""
        inputs = self.inputs(batch)
        hidden = self.hidden(inputs)[torch.arange(len(inputs.lengths), device=self.device), inputs.lengths - 1]
        return hidden.to(torch.promote_types(hidden.dtype, torch.float32))
