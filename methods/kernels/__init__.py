"""Compute kernels shared by methods; each family has a plain reference beside its fast forms."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from methods.kernels import memory_read
from methods.kernels.memory_read import Implementation


@dataclass
class Kernels:
    """Which implementation a backbone's methods are to use, and which ones they have used.

    Attributes:
        asked: see `memory_read`.
        ran: what `choose` has given so far, `reference` with its reason where `auto` could not take the kernels.
    """

    asked: Implementation = "auto"
    ran: set[str] = field(default_factory=set)

    def choose(self, x: Tensor, keys: Tensor) -> Implementation:
        """The `impl` for a `memory_read` of these tensors, noted in `ran`.

        Raises:
            ValueError: the implementation that was asked for cannot run.
        """
        chosen, reason = memory_read.choose(x, keys, self.asked)
        self.ran.add(chosen if reason is None else f"{chosen}: {reason}")
        return chosen
