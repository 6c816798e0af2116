"""LoRA (arXiv 2106.09685) by peft, with the visual prompt of `llava`; DoRA and rsLoRA through peft's own options.

Sites: of a decoder `llm.input` and `llm.linear`; of an encoder of both modalities `encoder.linear`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import peft
from torch import nn

from methods import Attachment, Handle, Method, Search, Tower, VLModel, setting
from methods.layers import VisualPrompt, attach_visual_prompt, prompt_tokens, prompt_unmet

PREFIX = "lora."
"""Before the names of peft's own files (`base_model.model...`) in the method's state; the rest is the projector."""


@dataclass(frozen=True, kw_only=True)
class LoRA(Method):
    """Low-rank updates of a tower's linear layers. Source: peft; rank and targets as in LLaVA-LoRA's 4.4 M row."""

    rank: int = setting(8, "rank of every update", source="arXiv 2106.09685, Table 6", low=1)
    alpha: float = setting(
        16.0, "scaling: alpha / rank, or alpha / sqrt(rank) with rslora", tune=Search(2.0, 128.0, log=True)
    )
    dropout: float = setting(
        0.05,
        "dropout on the input of every update",
        source="LLaVA's LoRA script",
        low=0,
        below=1,
        tune=Search(0.0, 0.2),
    )
    target_modules: tuple[str, ...] = setting(("q_proj", "v_proj"), "last or last but one part of the layers' names")
    dora: bool = setting(False, "learn magnitudes apart from directions", source="arXiv 2402.09353")
    rslora: bool = setting(False, "scale by alpha / sqrt(rank)", source="arXiv 2312.03732")
    tokens: int | None = setting(None, "visual tokens, a square number; none for one per patch", low=1)
    hidden: int | None = setting(None, "width of the projector's middle layer; none for the LLM's width", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.target_modules:
            raise ValueError("target_modules must name at least one layer, got none")

    def unmet(self, model: VLModel) -> str | None:
        """What neither kind of backbone can lack, and: every target must name a linear layer."""
        tower = _tower(model)
        needed = {f"{tower}.linear"} | ({"llm.input"} if tower == "llm" else set())
        if lacking := sorted(needed - model.offers):
            return f"{model.name} offers no {', '.join(lacking)}"
        for target in self.target_modules:
            if not linear_names(model.tower(tower), (target,)):
                return f"{model.name} has no linear layer named {target!r} (lora.target_modules)"
        return prompt_unmet(model, self.tokens, field="lora.tokens") if tower == "llm" else None

    def peft_config(self, layers: Sequence[str], *, decoder: bool) -> peft.LoraConfig:
        """What peft is told, and finds beside its weights; by short names where these say which `layers` are meant."""
        plain = all(name.endswith(tuple(f".{target}" for target in self.target_modules)) for name in layers)
        return peft.LoraConfig(
            task_type="CAUSAL_LM" if decoder else None,
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # peft divides it by the rank, so any number will do
            lora_dropout=self.dropout,
            target_modules=list(self.target_modules) if plain else list(layers),
            use_dora=self.dora,
            use_rslora=self.rslora,
        )

    def visual_prompt(self, model: VLModel) -> VisualPrompt:
        """A new projector for a decoder."""
        shape, tokens = model.shape, prompt_tokens(model, self.tokens)
        return VisualPrompt(shape.vision_width, shape.llm_width, tokens=tokens, hidden=self.hidden)

    def attach(self, model: VLModel, seed: int) -> Attachment:
        """Wrap the linear layers and, on a decoder, plug the projector in."""
        tower = _tower(model)
        config = self.peft_config(linear_names(model.tower(tower), self.target_modules), decoder=tower == "llm")
        wrapped: list[peft.LoraModel] = []

        def wrap() -> nn.Module:
            wrapped.append(peft.LoraModel(model.tower(tower), config, "default"))
            layers = [module for module in wrapped[0].modules() if isinstance(module, peft.tuners.lora.LoraLayer)]
            # Only what peft added may take the methods' dtype; the wrapped layers keep the backbone's.
            return nn.ModuleList(nn.ModuleList(_added(layer)) for layer in layers)

        model.build(wrap, seed=seed)
        module = nn.Module()
        # In the module, so that `train` switches their dropout.
        layers = [layer for layer in wrapped[0].modules() if isinstance(layer, peft.tuners.lora.LoraLayer)]
        module.layers = nn.ModuleList(layers)
        handles: list[Handle] = [_Wrapping(wrapped[0], model.tower(tower))]
        if tower == "llm":
            module.adapter_projector = model.build(lambda: self.visual_prompt(model), seed=seed)
            handles.append(attach_visual_prompt(model, module.adapter_projector))
        return _LoRAAttachment(module, handles, wrapped[0])


class _LoRAAttachment(Attachment):
    """Parameters under peft's names, as peft saves them, after `lora.`."""

    def __init__(self, module: nn.Module, handles: list[Handle], wrapped: peft.LoraModel) -> None:
        super().__init__(module, handles)
        self._wrapped = wrapped

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """See `Attachment.named_parameters`."""
        for name, parameter in self._wrapped.named_parameters():
            if parameter.requires_grad:
                yield f"{PREFIX}base_model.{_saved_name(name)}", parameter
        projector = getattr(self.module, "adapter_projector", None)
        if projector is not None:
            yield from projector.named_parameters(prefix="adapter_projector")


class _Wrapping:
    """Undoes peft's wrapping: the tower has its own linear layers again."""

    def __init__(self, wrapped: peft.LoraModel, tower: nn.Module) -> None:
        self._wrapped: peft.LoraModel | None = wrapped
        self._tower = tower

    def remove(self) -> None:
        if self._wrapped is not None:
            self._wrapped.unload()
            self._wrapped = None
            if "peft_config" in vars(self._tower):
                del self._tower.peft_config


def linear_names(tower: nn.Module, targets: tuple[str, ...]) -> list[str]:
    """The linear layers whose last part, or last but one (of an expert of a multiway layer), is among `targets`."""
    return [
        name
        for name, module in tower.named_modules()
        if isinstance(module, nn.Linear) and set(name.split(".")[-2:]) & set(targets)
    ]


def _tower(model: VLModel) -> Tower:
    return "encoder" if "encoder.linear" in model.offers else "llm"


def _added(layer: nn.Module) -> list[nn.Module]:
    return [module for name, module in layer.named_children() if name.startswith("lora_")]


def _saved_name(name: str) -> str:
    """`....lora_A.default.weight` as `....lora_A.weight`; DoRA's magnitudes are saved without `.weight`."""
    short = name.replace(".default", "")
    return short.removesuffix(".weight") if "lora_magnitude_vector" in short else short
