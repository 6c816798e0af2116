"""Baseline `frozen`: the language model as it is, untrained and without the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from methods import Attachment, Method, VLModel


@dataclass(frozen=True, kw_only=True)
class Frozen(Method):
    """Nothing is attached and nothing is trained: what the backbone knows from the text alone."""

    trains: ClassVar[bool] = False

    def attach(self, model: VLModel, seed: int) -> Attachment:
        """An attachment without parameters."""
        return Attachment(nn.Module(), [])
