"""LLaVA-style prompting (arXiv 2304.08485, 2310.03744): projected patches become tokens of the input sequence.

Sites: `llm.input`; with `train_llm` also `llm.weights` (the second stage).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from methods import Attachment, Method, VLModel, setting
from methods.layers import VisualPrompt, attach_visual_prompt, prompt_tokens, prompt_unmet


@dataclass(frozen=True, kw_only=True)
class LLaVA(Method):
    """A two-layer projector and, in the second stage, the language model. Source: LLaVA-1.5, `mlp2x_gelu`.

    Deviation: LLaVA's projector reads CLIP's last hidden state but one as it is; ours, as all methods here, reads it
    behind the tower's final LayerNorm.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"llm.input"})

    tokens: int | None = setting(None, "visual tokens, a square number; none for one per patch", low=1)
    hidden: int | None = setting(None, "width of the projector's middle layer; none for the LLM's width", low=1)
    train_llm: bool = setting(False, "train the language model too (stage 2)", source="LLaVA trains it on ScienceQA")

    def unmet(self, model: VLModel) -> str | None:
        """As `Method.unmet`, and: the patches must pool to `tokens`."""
        if self.train_llm and "llm.weights" not in model.offers:
            return f"{model.name} offers no llm.weights"
        return super().unmet(model) or prompt_unmet(model, self.tokens, field="llava.tokens")

    def attach(self, model: VLModel, seed: int) -> Attachment:
        """Plug the projector in and, in stage 2, free the language model."""
        module = model.build(lambda: _LLaVAModule(self, model), seed=seed)
        handles = [attach_visual_prompt(model, module.adapter_projector)]
        if self.train_llm:
            handles.append(model.unfreeze("llm"))
            module.llm = model.tower("llm")
        return Attachment(module, handles)


class _LLaVAModule(nn.Module):
    llm: nn.Module

    def __init__(self, method: LLaVA, model: VLModel) -> None:
        super().__init__()
        shape, tokens = model.shape, prompt_tokens(model, method.tokens)
        self.adapter_projector = VisualPrompt(shape.vision_width, shape.llm_width, tokens=tokens, hidden=method.hidden)
