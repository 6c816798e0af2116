"""The contrastive side of image-text retrieval: heads into a shared space, and InfoNCE over a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

Direction = Literal["both", "image", "text"]


class Heads(nn.Module):
    """Bias-free linear maps of both modalities into one space, and the learned scale, under BEiT-3's names.

    Computed in the dtype of the weights, whatever autocast says. Deviation: both maps start from the same
    semi-orthogonal matrix, those of BEiT-3 from two normal ones: so untrained features are compared by the cosine of
    the hidden states themselves (exactly where `width` is at least `embed_width`, else of a random projection).
    """

    def __init__(self, embed_width: int, width: int, *, temperature: float) -> None:
        super().__init__()
        self.vision_head = nn.Linear(embed_width, width, bias=False)
        self.language_head = nn.Linear(embed_width, width, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))
        self.match_head: nn.Linear | None = None
        nn.init.orthogonal_(self.vision_head.weight)
        with torch.no_grad():
            self.language_head.weight.copy_(self.vision_head.weight)

    @classmethod
    def native(cls, tensors: Mapping[str, Tensor]) -> Heads:
        """The frozen heads of a checkpoint: `vision_head.weight`, `language_head.weight` [W, D] and `logit_scale`."""
        width, embed_width = tensors["vision_head.weight"].shape
        heads = cls(embed_width, width, temperature=1.0)
        # Not load_state_dict: it would leave the parameters of a model without weights (device meta) as they are.
        heads.vision_head.weight = nn.Parameter(tensors["vision_head.weight"].detach().clone())
        heads.language_head.weight = nn.Parameter(tensors["language_head.weight"].detach().clone())
        heads.logit_scale = nn.Parameter(tensors["logit_scale"].detach().clone())
        return heads.requires_grad_(False)

    def with_match(self, embed_width: int) -> Heads:
        """These, with a new map from what the model makes of an image and a caption together to their match."""
        self.match_head = nn.Linear(embed_width, 1)
        return self

    def matches(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N"]:
        """The log-odds that image and caption belong together.

        Raises:
            ValueError: there is no such head.
        """
        if self.match_head is None:
            raise ValueError("these heads have none for matches: they were made without rerank")
        with torch.autocast(hidden.device.type, enabled=False):
            return self.match_head(hidden.to(self.match_head.weight.dtype)).squeeze(1)  # type: ignore[no-any-return]

    def images(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N W"]:
        """L2-normalised features of images."""
        return self._project(self.vision_head, hidden)

    def texts(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N W"]:
        """L2-normalised features of texts."""
        return self._project(self.language_head, hidden)

    def _project(self, head: nn.Linear, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return F.normalize(head(hidden.to(head.weight.dtype)), dim=-1)


def info_nce(
    images: Float[Tensor, "P W"],
    texts: Float[Tensor, "P W"],
    log_scale: Float[Tensor, ""],
    *,
    ignored: Bool[Tensor, "P P"] | None = None,
    direction: Direction = "both",
) -> Float[Tensor, ""]:
    """Cross-entropy of every image against all texts of the batch (`image`), of every text against all images (`text`).

    `both` is the mean of the two. Pair p is image p and text p; `ignored` pairs are no negatives, and p with p is
    always the positive. The scale is exp(log_scale), not clamped. Computed in the dtype of the features.

    Source: BEiT-3's retrieval criterion, as used by MultiWay-Adapter.
    """
    with torch.autocast(images.device.type, enabled=False):
        logits = log_scale.exp() * images @ texts.T
        if ignored is not None:
            positive = torch.eye(len(images), dtype=torch.bool, device=images.device)
            logits = logits.masked_fill(ignored & ~positive, -torch.inf)
        targets = torch.arange(len(images), device=images.device)
        losses = []
        if direction != "text":
            losses.append(F.cross_entropy(logits, targets))
        if direction != "image":
            losses.append(F.cross_entropy(logits.T, targets))
        return torch.stack(losses).mean()


def same_image(image_ids: Sequence[str], device: torch.device) -> Bool[Tensor, "P P"]:
    """Which pairs of a batch show the same image."""
    numbers = {image_id: number for number, image_id in enumerate(image_ids)}
    shown = torch.tensor([numbers[image_id] for image_id in image_ids], device=device)
    return shown[:, None] == shown


def hardest_captions(similarities: Float[Tensor, "P P"], same: Bool[Tensor, "P P"]) -> list[int | None]:
    """For the image of each pair the pair whose caption is most similar to it and of another image; None if none is."""
    nearest = similarities.detach().masked_fill(same, -torch.inf).argmax(dim=1).tolist()
    return [None if none else pair for pair, none in zip(nearest, same.all(dim=1).tolist(), strict=True)]


def matching_loss(right: Float[Tensor, "P"], wrong: Float[Tensor, "N"]) -> Float[Tensor, ""]:
    """Mean binary cross-entropy of the log-odds of pairs that belong together, and of pairs that do not.

    Source: the image-text matching of ALBEF and BLIP, there with a negative for each caption too.
    """
    logits = torch.cat([right, wrong])
    return F.binary_cross_entropy_with_logits(logits, torch.cat([torch.ones_like(right), torch.zeros_like(wrong)]))
