"""The state of every generator that a training draws from: Python's, numpy's and torch's."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

CPU, CUDA = "torch_cpu", "torch_cuda"


@dataclass(frozen=True)
class Randomness:
    """`numbers` is JSON; `tensors` are torch's own states, bytes on the CPU."""

    numbers: dict[str, Any]
    tensors: dict[str, Tensor]


def on_cpu() -> Randomness:
    """As it is now, but for the generator of a GPU."""
    version, words, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    inner = numpy["state"]
    return Randomness(
        {
            "python": [version, list(words), gauss],
            "numpy": {**numpy, "state": {"key": inner["key"].tolist(), "pos": int(inner["pos"])}},
        },
        {CPU: torch.get_rng_state()},
    )


def with_gpu(state: Randomness, device: torch.device) -> Randomness:
    """The same with the generator of this device as it is now, if it is a GPU."""
    if device.type != "cuda":
        return state
    return Randomness(state.numbers, state.tensors | {CUDA: torch.cuda.get_rng_state(device)})


def restore(state: Randomness, device: torch.device) -> None:
    """Let every generator go on from there.

    Raises:
        ValueError, KeyError, TypeError, RuntimeError: it is not what `on_cpu` gives.
    """
    version, words, gauss = state.numbers["python"]
    random.setstate((version, tuple(words), gauss))
    numpy = state.numbers["numpy"]
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": np.array(numpy["state"]["key"], np.uint32)}})
    torch.set_rng_state(state.tensors[CPU])
    if device.type == "cuda" and CUDA in state.tensors:
        torch.cuda.set_rng_state(state.tensors[CUDA], device)
