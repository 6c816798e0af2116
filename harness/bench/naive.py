"""The slow way, kept to compare with: formulas layer by layer with a full sort, attention in full, logits everywhere.

What a first implementation computes, from the same parameters and seeds and with the same result. Every layer makes its
own keys and values from the visual features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.backbones.decoder import DecoderModel, Normalisation
from harness.backbones.encoding import IGNORED
from harness.backbones.inputs import Inputs, select
from methods import Attachment, Batch, Images, Insert, Method, VLModel
from methods.ademvl import AdemModule, AdemVL, pool
from methods.layers import attach_branches, scatter_rows
from methods.memvp import MemVP, MemVPModule


def read_adem(x: Tensor, keys: Tensor, values: Tensor, drop_ratio: float) -> Tensor:
    """ADEM-VL's read with all scores of a token sorted."""
    scores = F.silu(x) @ F.silu(keys).mT
    lowest = scores.sort(dim=-1).values[..., int(drop_ratio * keys.shape[1])].unsqueeze(-1)
    return torch.where(scores >= lowest, scores, torch.zeros_like(scores)) @ values


def read_memvp(x: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
    """MemVP's read as it is written."""
    return F.dropout(F.silu(x @ keys.mT), dropout) @ values


class NaiveDecoder(DecoderModel):
    """A decoder that takes logits of every token and makes attention scores in full; it shares the other's weights."""

    @classmethod
    def of(cls, model: DecoderModel) -> NaiveDecoder:
        """The slow form of `model`, which from now on attends in full too."""
        model.llm.set_attn_implementation("eager")
        images = Normalisation(model.image_mean, model.image_std)
        return cls(model.name, model.llm, model.vision, model.text, images, model.folders)

    def loss_of(self, inputs: Inputs) -> Tensor:
        """See `DecoderModel.loss_of`."""
        logits = self.llm.lm_head(self.hidden(inputs))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))[:, :-1]
        targets = inputs.labels[:, 1:]
        total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / (targets != IGNORED).sum().clamp(min=1)

    @torch.inference_mode()
    def continuation_logprobs(self, batch: Batch, continuations: Sequence[Sequence[str]]) -> list[list[float]]:
        """See `DecoderModel.continuation_logprobs`: one forward for each continuation of each row."""
        return [[self._logprob(select(batch, row), text) for text in texts] for row, texts in enumerate(continuations)]

    def _logprob(self, batch: Batch, text: str) -> float:
        added = torch.tensor([self.text.continuation(text)], device=self.device)
        ids = torch.cat([batch.input_ids, added], dim=1)
        longer = Batch(ids, batch.lengths + added.shape[1], ids, batch.pixel_values, batch.image_rows)
        logprobs = self.logits(longer)[0].float().log_softmax(dim=-1)
        end = logprobs.shape[0] - 1
        return sum(float(logprobs[end - added.shape[1] + i, token]) for i, token in enumerate(added[0].tolist()))


def attach(method: Method, model: VLModel, seed: int) -> Attachment:
    """`method.attach`, with the memory of ADEM-VL and MemVP projected and read anew in every layer."""
    if isinstance(method, AdemVL):
        return _attach_ademvl(method, model, seed)
    if isinstance(method, MemVP):
        return _attach_memvp(method, model, seed)
    return method.attach(model, seed)


def _attach_ademvl(method: AdemVL, model: VLModel, seed: int) -> Attachment:
    module = model.build(lambda: AdemModule(method, model), seed=seed)
    seen: list[Images] = []

    def prepare(images: Images) -> Tensor | None:
        seen[:] = [images]
        return module.adapter_proj_cls(images.tokens[:, :1]) if method.cls else None

    def fuse(x: Tensor) -> Tensor:
        [images] = seen
        projected = method.beta * module.adapter_proj(pool(images.patches, method.scales))
        visual = scatter_rows(projected, images.rows, images.batch_size)
        keys, values = visual + module.adapter_emb1, visual + module.adapter_emb2
        return method.alpha * read_adem(x, keys.to(x.dtype), values.to(x.dtype), method.drop_ratio)

    insert = Insert(before="Image: ", tokens=1, without_image="Image: N/A") if method.cls else None
    handles = [model.on_images(prepare, insert=insert)]
    handles += [model.on_ffn("llm", layer, fuse) for layer in range(model.shape.llm_layers)]
    return Attachment(module, handles + attach_branches(model, module.adapter_vision))


def _attach_memvp(method: MemVP, model: VLModel, seed: int) -> Attachment:
    module = model.build(lambda: MemVPModule(method, model), seed=seed)
    seen: list[Images] = []

    def prepare(images: Images) -> None:
        seen[:] = [images]

    def recall(x: Tensor) -> Tensor:
        [images] = seen
        projected = method.image_scale * module.adapter_proj(images.patches)
        padded = F.pad(projected, (0, 0, 0, method.slots - projected.shape[1]))
        visual = scatter_rows(padded, images.rows, images.batch_size)
        keys, values = visual + module.adapter_emb1, visual + module.adapter_emb2
        dropout = method.dropout if module.training else 0.0
        return method.scale * read_memvp(x, keys.to(x.dtype), values.to(x.dtype), dropout)

    handles = [model.on_images(prepare)]
    handles += [model.on_ffn("llm", layer, recall) for layer in range(model.shape.llm_layers)]
    return Attachment(module, handles + attach_branches(model, module.adapter_vision))
