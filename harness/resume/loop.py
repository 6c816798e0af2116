"""From a running training to its state, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from harness.resume import randomness
from harness.resume.randomness import Randomness
from harness.resume.training_state import StateError, TrainingState


@dataclass(frozen=True)
class Loop:
    """What a training changes: parameters by name, the optimiser and, in fp16, the scale of the losses."""

    trained: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator

    @property
    def nbytes(self) -> int:
        """About what a state takes on the disk: the parameters and two moments of each."""
        return 3 * sum(p.numel() * p.element_size() for p in self.trained.values())

    def state(self, before: Randomness, **rest: Any) -> TrainingState:
        """The state now.

        Args:
            before: the generators before the batch of the next step was made; those of a GPU are taken now.
            rest: the other fields of `TrainingState`.
        """
        moments = self.optimizer.state_dict()["state"]
        tensors = {f"{number}.{key}": value for number, named in moments.items() for key, value in named.items()}
        if odd := next((name for name, value in tensors.items() if not isinstance(value, Tensor)), None):
            raise TypeError(f"the optimiser's {odd} is no tensor and cannot be kept")
        scaler = self.accelerator.scaler
        return TrainingState(
            weights={name: parameter.detach() for name, parameter in self.trained.items()},
            optimizer=tensors,
            scaler={} if scaler is None else scaler.state_dict(),
            random=randomness.with_gpu(before, self.accelerator.device),
            **rest,
        )

    def restore(self, state: TrainingState) -> None:
        """Go on from a state.

        Raises:
            StateError: it is of other parameters.
        """
        if {n: t.shape for n, t in state.weights.items()} != {n: p.shape for n, p in self.trained.items()}:
            raise StateError("the kept training state is of other parameters; run the cell with --fresh")
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(state.weights[name])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.optimizer.items():
            number, _, key = name.partition(".")
            moments.setdefault(int(number), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if self.accelerator.scaler is not None and state.scaler:
            self.accelerator.scaler.load_state_dict(state.scaler)
        randomness.restore(state.random, self.accelerator.device)
