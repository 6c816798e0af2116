"""MemVP (arXiv 2405.05615): projected patches as extra key-value memory beside every FFN.

Sites: `llm.ffn` (the memory, on the normed stream) and `vision.ffn`. Nothing enters the input sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from methods import Attachment, Images, Method, Search, VLModel, setting
from methods.kernels.memory_read import memory_read
from methods.layers import Memory, Projector, SlotEmbeddings, attach_branches, scatter_rows, vision_adapters

CODE = "authors' train script (commit 5eef19f)"
WEIGHTS = Search(1e-3, 1.0, log=True)


@dataclass(frozen=True, kw_only=True)
class MemVP(Method):
    """MemVP. Source: arXiv 2405.05615 section 3; authors' memvp/{adapter,mm_adaptation,model}.py."""

    needs: ClassVar[frozenset[str]] = frozenset({"llm.ffn", "vision.ffn"})

    scale: float = setting(0.1, "weight of the memory beside each FFN", source=CODE, tune=WEIGHTS)
    image_scale: float = setting(
        0.01, "weight of the projected patches", source="constant in the authors' code", tune=WEIGHTS
    )
    slots: int = setting(320, "memory slots; the patches are zero-padded to it (400 for 13B)", source=CODE, low=1)
    dropout: float = setting(0.1, "dropout on the scores", source="authors' memvp/adapter.py", low=0, below=1)
    hidden: int = setting(128, "width of the projector's middle layer", source=CODE, low=1)
    vision_adapter: int = setting(12, "bottleneck beside each vision MLP; 0 for none", source=CODE, low=0)
    vision_dropout: float = setting(0.1, "dropout inside the vision adapters", source=CODE, low=0, below=1)

    def unmet(self, model: VLModel) -> str | None:
        """As `Method.unmet`, and: every patch needs a slot."""
        if (lacking := super().unmet(model)) is not None:
            return lacking
        if self.slots < model.shape.patches:
            return f"{model.name} has {model.shape.patches} patches, more than memvp.slots={self.slots}"
        return None

    def attach(self, model: VLModel, seed: int) -> Attachment:
        """Plug the memory of every layer and the vision adapters in."""
        module = model.build(lambda: MemVPModule(self, model), seed=seed)
        memory = Memory()

        def prepare(images: Images) -> None:
            visual = self.image_scale * module.adapter_proj(images.patches)
            visual = F.pad(visual, (0, 0, 0, self.slots - visual.shape[1]))
            visual = scatter_rows(visual, images.rows, images.batch_size)
            memory.write(visual + module.adapter_emb1, visual + module.adapter_emb2)

        def recall(x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            dropout = self.dropout if module.training else 0.0
            impl = model.kernels.choose(x, keys)
            return memory_read(x, keys, values, form="memvp", dropout=dropout, scale=self.scale, impl=impl)

        handles = [model.per_forward(memory), model.on_images(prepare)]
        handles += [model.on_ffn("llm", layer, memory.reader(recall)) for layer in range(model.shape.llm_layers)]
        handles += attach_branches(model, module.adapter_vision)
        return Attachment(module, handles)


class MemVPModule(SlotEmbeddings):
    """The trained parameters, named as in the authors' checkpoints."""

    def __init__(self, method: MemVP, model: VLModel) -> None:
        shape = model.shape
        super().__init__(method.slots, shape.llm_width)
        self.adapter_proj = Projector(shape.vision_width, method.hidden, shape.llm_width)
        # The authors allocate, count and save this table but never read it; kept so that counts and checkpoints agree.
        self.adapter_modality_embedding = nn.Embedding(2, shape.llm_width)
        self.adapter_vision = vision_adapters(model, method.vision_adapter, method.vision_dropout)
