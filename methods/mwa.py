"""MultiWay-Adapter (arXiv 2309.01516): adapters beside the FFNs, one per modality, and an Alignment Enhancer.

On an encoder of both modalities (BEiT-3) as the authors' code computes it (commit 8999b5a); on a decoder LLM, where no
form is published, in ours. Sites: `encoder.ffn`, `encoder.block`; or `llm.input`, `llm.ffn`, `llm.block`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from methods import Attachment, Branch, Handle, Method, Search, Tower, VLModel, setting
from methods.layers import VisualPrompt, attach_visual_prompt, prompt_tokens, prompt_unmet

CODE = "authors' code (commit 8999b5a)"
CHOICES = {
    "enhancer": ("auto", "ffn", "bottleneck", "none"),
    "layernorm": ("auto", "none", "in", "out"),
    "modalities": ("both", "image", "text"),
}
ENCODER = frozenset({"encoder.ffn", "encoder.block"})
DECODER = frozenset({"llm.input", "llm.ffn", "llm.block"})
Kind = Literal["image", "text", "fused"]


@dataclass(frozen=True, kw_only=True)
class MWA(Method):
    """Adapters and enhancers of every block.

    x2 = x1 + FFN(LN x1) + scale * up(dropout(relu(down(x1)))), x3 = x2 + enhancer(x2); x1 is before its norm.

    On an encoder the parameters bear the authors' names, which are swapped there: `adaptmlp_text` serves images and
    `adaptmlp_vision` serves texts. On a decoder, visual tokens enter the input as in `llava`, tokens are routed one by
    one, names mean what they say, and everything starts as the identity.
    """

    bottleneck: int = setting(64, "width of the adapters", source=CODE, low=1)
    scale: float = setting(0.6, "weight of the adapters", source=CODE, tune=Search(0.05, 5.0, log=True))
    dropout: float = setting(
        0.1,
        "dropout in the adapters, and in a bottleneck enhancer",
        source=CODE,
        low=0,
        below=1,
        tune=Search(0.0, 0.3),
    )
    enhancer: str = setting(
        "auto",
        "ffn (the code), bottleneck (the paper's size) or none; auto: ffn on an encoder, bottleneck on a decoder",
    )
    enhancer_hidden: int | None = setting(
        None, "width inside the enhancer; none for 4 x the model's (ffn) or the adapters' (bottleneck)", low=1
    )
    modalities: str = setting(
        "both", "whose tokens get adapters: both, image (authors' ffn_mode text) or text (vision)"
    )
    layernorm: str = setting(
        "auto",
        "LayerNorm of adapters and bottleneck enhancers: none, in (before) or out (behind); auto: none on an encoder "
        "(the code), in on a decoder, where the raw stream of an LLM holds outliers",
    )
    fused_adapters: bool = setting(False, "adapters on fused input, routed by token; the authors' code uses none there")
    tokens: int | None = setting(None, "decoder: visual tokens, a square number; none for one per patch", low=1)
    hidden: int | None = setting(None, "decoder: width of the projector's middle layer; none for the LLM's", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, choices in CHOICES.items():
            if (value := getattr(self, field)) not in choices:
                raise ValueError(f"{field} must be one of {', '.join(choices)}, got {value!r}")

    def unmet(self, model: VLModel) -> str | None:
        """Neither an encoder nor a decoder with the sites named above."""
        if model.offers >= ENCODER:
            return None
        if not model.offers >= DECODER:
            return f"{model.name} offers neither {', '.join(sorted(ENCODER))} nor {', '.join(sorted(DECODER))}"
        return prompt_unmet(model, self.tokens, field="mwa.tokens")

    def attach(self, model: VLModel, seed: int) -> Attachment:
        """Plug adapters and enhancers into every block and, on a decoder, the visual prompt into the input."""
        module = model.build(lambda: _MWAModule(self, model), seed=seed)
        tower: Tower = "encoder" if model.offers >= ENCODER else "llm"
        handles: list[Handle] = []
        if tower == "llm":
            handles.append(attach_visual_prompt(model, module.adapter_projector))
        router = _Router(model, fused=self.fused_adapters or tower == "llm")
        for index, layer in enumerate(module.layers):
            image, text = (getattr(layer, name, _nothing) for name in adapter_names(model))
            handles.append(model.on_ffn(tower, index, router.branch(image, text), reads="raw"))
            if hasattr(layer, "enhancemlp"):
                handles.append(model.on_block(tower, index, layer.enhancemlp))  # type: ignore[arg-type]
        return Attachment(module, handles)


def adapter_names(model: VLModel) -> tuple[str, str]:
    """Names of the adapters that serve image and text tokens; the authors' are swapped."""
    names = ("adaptmlp_vision", "adaptmlp_text")
    return names[::-1] if model.offers >= ENCODER else names


class Adapter(nn.Module):
    """scale * up(dropout(relu(down(x)))), with an optional LayerNorm before or behind; starts as zero.

    Source: the authors' `Adapter` with `ffn_adapter_init_option lora`.
    """

    def __init__(self, width: int, hidden: int, *, scale: float, dropout: float, layernorm: str) -> None:
        super().__init__()
        self.scale, self.layernorm = scale, layernorm
        if layernorm != "none":
            self.adapter_layer_norm_before = nn.LayerNorm(width)  # the authors' name, behind too
        self.down_proj, self.up_proj = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.kaiming_uniform_(self.down_proj.weight, a=math.sqrt(5))
        for zero in (self.down_proj.bias, self.up_proj.weight, self.up_proj.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """The branch to add to the residual stream."""
        read = self.adapter_layer_norm_before(x) if self.layernorm == "in" else x
        out = self.scale * self.up_proj(self.dropout(F.relu(self.down_proj(read))))
        return self.adapter_layer_norm_before(out) if self.layernorm == "out" else out  # type: ignore[no-any-return]


class EnhancerFFN(nn.Module):
    """fc2(LN(gelu(fc1(x)))), shared by both modalities; starts from truncated normal weights, or as zero.

    Source: the authors' `enhancemlp`, an FFN of BEiT-3 whose own residual is the block's output.
    """

    def __init__(self, width: int, hidden: int, *, zero: bool) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.ffn_layernorm = nn.LayerNorm(hidden)
        for layer in (self.fc1, self.fc2):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        if zero:
            nn.init.zeros_(self.fc2.weight)

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """The branch to add to a block's output."""
        return self.fc2(self.ffn_layernorm(F.gelu(self.fc1(x))))  # type: ignore[no-any-return]


class _MWAModule(nn.Module):
    """`layers.N.{adaptmlp_text,adaptmlp_vision,enhancemlp}`, as after `beit3.encoder.` in the authors' checkpoints."""

    adapter_projector: VisualPrompt

    def __init__(self, method: MWA, model: VLModel) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_layer(method, model) for _ in range(model.shape.llm_layers))
        if not model.offers >= ENCODER:
            shape, tokens = model.shape, prompt_tokens(model, method.tokens)
            self.adapter_projector = VisualPrompt(
                shape.vision_width, shape.llm_width, tokens=tokens, hidden=method.hidden
            )


def _layer(method: MWA, model: VLModel) -> nn.ModuleDict:
    """The adapters and the enhancer of one block."""
    width, on_encoder = model.shape.llm_width, model.offers >= ENCODER
    layernorm = {True: "none", False: "in"}[on_encoder] if method.layernorm == "auto" else method.layernorm
    kind = {True: "ffn", False: "bottleneck"}[on_encoder] if method.enhancer == "auto" else method.enhancer
    parts = nn.ModuleDict()
    for name, modality in zip(adapter_names(model), ("image", "text"), strict=True):
        if method.modalities in ("both", modality):
            parts[name] = Adapter(
                width, method.bottleneck, scale=method.scale, dropout=method.dropout, layernorm=layernorm
            )
    if kind == "ffn":
        parts["enhancemlp"] = EnhancerFFN(width, method.enhancer_hidden or 4 * width, zero=not on_encoder)
    elif kind == "bottleneck":
        hidden = method.enhancer_hidden or method.bottleneck
        parts["enhancemlp"] = Adapter(width, hidden, scale=1.0, dropout=method.dropout, layernorm=layernorm)
    return parts


class _Router:
    """Sends tokens to the adapter of their modality; asks once per forward which modalities there are."""

    def __init__(self, model: VLModel, *, fused: bool) -> None:
        self._model, self._fused = model, fused
        self._seen: Tensor | None = None
        self._kind: Kind = "text"

    def _kind_of(self, visual: Tensor) -> Kind:
        if visual is not self._seen:  # a new forward; the answer waits for the device, so not in every layer
            self._kind = "text" if not visual.any() else "image" if visual.all() else "fused"
            self._seen = visual
        return self._kind

    def branch(self, image: Callable[[Tensor], Any], text: Callable[[Tensor], Any]) -> Branch:
        """The branch of one layer."""

        def route(x: Float[Tensor, "B S D"]) -> Tensor:
            visual = self._model.visual_tokens
            kind = self._kind_of(visual)
            if kind == "fused":
                return torch.where(visual[..., None], image(x), text(x)) if self._fused else _nothing(x)
            return image(x) if kind == "image" else text(x)  # type: ignore[no-any-return]

        return route


def _nothing(x: Tensor) -> Tensor:
    return x.new_zeros(())
