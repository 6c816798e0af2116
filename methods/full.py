"""Full fine-tuning: every weight of the backbone is trained, the upper bound in parameters and cost.

Sites: of a decoder `llm.input`, `llm.weights`, `vision.weights` (with the visual prompt of `llava`); of an encoder of
both modalities `encoder.weights`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from methods import Attachment, Handle, Method, Tower, VLModel, setting
from methods.layers import VisualPrompt, attach_visual_prompt, prompt_tokens, prompt_unmet

DECODER = frozenset({"llm.input", "llm.weights", "vision.weights"})


@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """Trains the language model, the vision tower and a projector between them, or the whole encoder."""

    tokens: int | None = setting(None, "visual tokens, a square number; none for one per patch", low=1)
    hidden: int | None = setting(None, "width of the projector's middle layer; none for the LLM's width", low=1)
    train_vision: bool = setting(True, "train the vision tower of a decoder backbone too")

    def unmet(self, model: VLModel) -> str | None:
        """What neither kind of backbone can lack."""
        if "encoder.weights" in model.offers:
            return None
        if lacking := sorted(DECODER - model.offers):
            return f"{model.name} offers no {', '.join(lacking)}"
        return prompt_unmet(model, self.tokens, field="full.tokens")

    def trains_native_head(self) -> bool:
        """It does: the upper bound leaves nothing frozen."""
        return True

    def attach(self, model: VLModel, seed: int) -> Attachment:
        """Free the weights and, on a decoder, plug the projector in."""
        module, handles = nn.Module(), list[Handle]()
        towers: list[Tower] = ["encoder"]
        if "encoder.weights" not in model.offers:
            shape, tokens = model.shape, prompt_tokens(model, self.tokens)
            prompt = model.build(
                lambda: VisualPrompt(shape.vision_width, shape.llm_width, tokens=tokens, hidden=self.hidden), seed=seed
            )
            module.adapter_projector = prompt
            handles.append(attach_visual_prompt(model, prompt))
            towers = ["llm", "vision"] if self.train_vision else ["llm"]
        for tower in towers:
            handles.append(model.unfreeze(tower))
            module.add_module(tower, model.tower(tower))
        return Attachment(module, handles)
