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

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of a parameter; the first is a single number."""


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
            StateError: it is of other parameters, or not what `state` gives; nothing has changed then.
        """
        self._check(state)
        before = randomness.with_gpu(randomness.on_cpu(), self.accelerator.device)
        try:
            randomness.restore(state.random, self.accelerator.device)
            if self.accelerator.scaler is not None and state.scaler:
                self.accelerator.scaler.load_state_dict(state.scaler)
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError, IndexError) as error:
            randomness.restore(before, self.accelerator.device)
            raise StateError(f"its generators cannot be set ({error!r})") from error
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(state.weights[name])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": _moments(state.optimizer), "param_groups": groups})

    def _check(self, state: TrainingState) -> None:
        """Hold names, shapes and types against what is trained."""
        if {n: t.shape for n, t in state.weights.items()} != {n: p.shape for n, p in self.trained.items()}:
            raise StateError("it is of other parameters")
        if not all(tensor.is_floating_point() for tensor in (*state.weights.values(), *state.optimizer.values())):
            raise StateError("its tensors are no parameters and moments")
        if state.step != len(state.losses):
            raise StateError("its losses are not those of its steps")
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        try:
            moments = _moments(state.optimizer)
        except ValueError as error:
            raise StateError(f"its moments have no number ({error})") from None
        for number, of in moments.items():
            known = number in range(len(parameters)) and set(of) == set(MOMENTS)
            if not known or {of[key].shape for key in MOMENTS[1:]} != {parameters[number].shape} or of["step"].ndim:
                raise StateError("its moments are of other parameters")


def _moments(named: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The optimiser's tensors by number of the parameter."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in named.items():
        number, _, key = name.partition(".")
        moments.setdefault(int(number), {})[key] = tensor
    return moments
