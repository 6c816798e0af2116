"""What a GPU says of itself through NVML: its energy, and the memory of every process on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class NvmlError(RuntimeError):
    """A GPU that cannot be asked; the message says what is missing."""


@dataclass(frozen=True)
class Process:
    """A process that computes on a GPU, with the bytes it holds there; None where the driver does not say."""

    pid: int
    used_bytes: int | None


@dataclass(frozen=True)
class Gpu:
    """One GPU, while NVML is open."""

    device: torch.device
    nvml: Any

    def energy_mj(self) -> int:
        """Millijoules since the driver was loaded, by the GPU's own counter.

        Raises:
            NvmlError: the GPU has no such counter.
        """
        return int(self._ask("total energy", lambda handle: self.nvml.nvmlDeviceGetTotalEnergyConsumption(handle)))

    def processes(self) -> list[Process]:
        """Every process that computes on it, ordered by number.

        Raises:
            NvmlError: the driver does not tell.
        """
        found = self._ask("processes", lambda handle: self.nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        return sorted((Process(item.pid, item.usedGpuMemory) for item in found), key=lambda process: process.pid)

    def _ask(self, what: str, question: Callable[[Any], T]) -> T:
        try:
            # By UUID: NVML numbers all GPUs, torch the visible ones.
            uuid = torch.cuda.get_device_properties(self.device).uuid
            return question(self.nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
        except self.nvml.NVMLError as error:
            raise NvmlError(f"NVML has no {what} of {self.device}: {error}") from None


@contextlib.contextmanager
def opened(device: torch.device) -> Iterator[Gpu]:
    """A GPU to ask, until the block ends.

    Raises:
        NvmlError: NVML is not installed or does not start.
    """
    try:
        import pynvml
    except ImportError:
        raise NvmlError("a GPU is asked through NVML: pip install 'vltune[gpu]'") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NvmlError(f"a GPU is asked through NVML, which does not start: {error}") from None
    try:
        yield Gpu(device, pynvml)
    finally:
        pynvml.nvmlShutdown()
