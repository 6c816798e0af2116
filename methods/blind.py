"""Baseline `blind`: another method, trained the same way, with every image withheld.

The difference between a method and its blind twin is what the image was worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import methods
from methods import Attachment, Method, VLModel, setting


@dataclass(frozen=True, kw_only=True)
class Blind(Method):
    """Trains the method named by `of` as if no example had an image."""

    of: str = setting("ademvl", "the method to train without images")
    fields: tuple[tuple[str, Any], ...] = setting((), "settings of that method, as (name, value) pairs")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.of == "blind":
            raise ValueError("blind.of must name another method, got 'blind'")
        self.inner()

    def inner(self) -> Method:
        """The method that is trained.

        Raises:
            ValueError: unknown method, field or value.
        """
        return methods.get(self.of, **dict(self.fields))

    def unmet(self, model: VLModel) -> str | None:
        """What the inner method lacks."""
        return self.inner().unmet(model)

    def trains_native_head(self) -> bool:
        """As the inner method."""
        return self.inner().trains_native_head()

    def attach(self, model: VLModel, seed: int) -> Attachment:
        """Attach the inner method and withhold every image from it."""
        attachment = self.inner().attach(model, seed)
        attachment.keep(model.withhold_images())
        return attachment
