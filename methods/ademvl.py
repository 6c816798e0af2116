"""ADEM-VL (arXiv 2410.17779): every layer reads multiscale visual memory without parameters of its own.

Sites: `llm.input` (one CLS token after "Image: "), `llm.ffn` (the fusion, on the normed stream), `vision.ffn`.
Where the authors' paper and code differ, the code is followed and the fields say so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from methods import Attachment, Images, Insert, Method, Search, VLModel, setting
from methods.kernels.memory_read import memory_read
from methods.layers import Memory, Projector, SlotEmbeddings, attach_branches, pool_grid, scatter_rows, vision_adapters

CODE = "authors' train script (commit cec09b8)"
WEIGHTS = Search(1e-3, 1.0, log=True)


@dataclass(frozen=True, kw_only=True)
class AdemVL(Method):
    """ADEM-VL. Source: arXiv 2410.17779 section III; authors' adem/{adapter,mm_adaptation,model}.py."""

    needs: ClassVar[frozenset[str]] = frozenset({"llm.input", "llm.ffn", "vision.ffn"})

    alpha: float = setting(0.1, "weight of the fusion beside each FFN", source=CODE, tune=WEIGHTS)
    beta: float = setting(0.01, "weight of the projected patches; not of the CLS token", source=CODE, tune=WEIGHTS)
    drop_ratio: float = setting(
        0.1,
        "share of the lowest scores each text token drops",
        source=CODE,
        low=0,
        below=1,
        tune=Search(0.0, 0.5),
    )
    scales: tuple[int, ...] = setting((256, 64), "token counts the patch grid is pooled to", source=CODE, low=1)
    cls: bool = setting(True, "insert the projected CLS token into the input", source=CODE)
    hidden: int = setting(128, "width of the projectors' middle layer", source=CODE, low=1)
    vision_adapter: int = setting(12, "bottleneck beside each vision MLP; 0 for none", source=CODE, low=0)
    vision_dropout: float = setting(0.1, "dropout inside the vision adapters", source=CODE, low=0, below=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for scale in self.scales:
            if math.isqrt(scale) ** 2 != scale:
                raise ValueError(f"scales must be square numbers, got {scale}")
        if not self.scales:
            raise ValueError("scales must name at least one token count, got none")

    def unmet(self, model: VLModel) -> str | None:
        """As `Method.unmet`, and: pooling cannot make more tokens than there are patches."""
        if (lacking := super().unmet(model)) is not None:
            return lacking
        if self.cls and "vision.cls" not in model.offers:
            return f"{model.name} has no CLS token; set ademvl.cls=false"
        if max(self.scales) > model.shape.patches:
            return f"{model.name} has {model.shape.patches} patches, fewer than ademvl.scales asks ({max(self.scales)})"
        return None

    def attach(self, model: VLModel, seed: int) -> Attachment:
        """Plug the CLS token, the fusion of every layer and the vision adapters in."""
        module = model.build(lambda: AdemModule(self, model), seed=seed)
        memory = Memory()

        def prepare(images: Images) -> Tensor | None:
            visual = self.beta * module.adapter_proj(pool(images.patches, self.scales))
            visual = scatter_rows(visual, images.rows, images.batch_size)
            memory.write(visual + module.adapter_emb1, visual + module.adapter_emb2)
            return module.adapter_proj_cls(images.tokens[:, :1]) if self.cls else None

        def fuse(x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            impl = model.kernels.choose(x, keys)
            return memory_read(x, keys, values, form="adem", drop_ratio=self.drop_ratio, scale=self.alpha, impl=impl)

        insert = Insert(before="Image: ", tokens=1, without_image="Image: N/A") if self.cls else None
        handles = [model.per_forward(memory), model.on_images(prepare, insert=insert)]
        handles += [model.on_ffn("llm", layer, memory.reader(fuse)) for layer in range(model.shape.llm_layers)]
        handles += attach_branches(model, module.adapter_vision)
        return Attachment(module, handles)


class AdemModule(SlotEmbeddings):
    """The trained parameters, named as in the authors' checkpoints."""

    def __init__(self, method: AdemVL, model: VLModel) -> None:
        shape = model.shape
        super().__init__(sum(method.scales), shape.llm_width)
        self.adapter_proj = Projector(shape.vision_width, method.hidden, shape.llm_width)
        if method.cls:
            self.adapter_proj_cls = Projector(shape.vision_width, method.hidden, shape.llm_width)
        self.adapter_vision = vision_adapters(model, method.vision_adapter, method.vision_dropout)


def pool(patches: Float[Tensor, "N P C"], scales: tuple[int, ...]) -> Float[Tensor, "N S C"]:
    """Average the square patch grid to each token count of `scales`, concatenated in their order.

    Deviation: a scale equal to P leaves the patches as they are (the authors' code does so for 256 only, whatever
    the grid, which is the same at their size).
    """
    pooled = [pool_grid(patches, scale) for scale in scales]
    return torch.cat(pooled, dim=1)
