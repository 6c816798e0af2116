"""Who is on the GPU: the memory of this process by NVML, and other processes that its numbers were shared with."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from harness.meters import nvml
from harness.record import Meter, scalar, unavailable


@dataclass
class Sharing:
    """What was seen on a device in several looks; of a device that is no GPU nothing is.

    `own`: bytes of this process at the last look. `others`: each other process that was seen, with the most it held.
    `reason`: why the others are not known.
    """

    device: torch.device
    own: Meter = field(default_factory=lambda: unavailable("a process's memory on a GPU; this ran on CPU"))
    others: dict[int, nvml.Process] = field(default_factory=dict)
    reason: str | None = None

    def look(self) -> None:
        """Ask the driver once more who is there."""
        if self.device.type != "cuda":
            return
        try:
            with nvml.opened(self.device) as gpu:
                self._note(gpu.processes())
        except nvml.NvmlError as error:
            self._unknown(str(error))

    def as_json(self) -> dict[str, Any] | None:
        """For a record's provenance; None on a CPU."""
        if self.device.type != "cuda":
            return None
        if self.reason is not None:
            return {"others": None, "reason": self.reason}
        return {"others": [asdict(process) for process in self.others.values()]}

    def _note(self, found: list[nvml.Process]) -> None:
        mine = [process for process in found if process.pid == os.getpid()]
        if not mine:
            # A container has process numbers of its own, so that nobody can tell which ones are others.
            self._unknown(
                f"NVML lists {len(found)} processes on {self.device}, none with this one's number {os.getpid()}"
            )
            return
        used = mine[0].used_bytes
        self.own = (
            unavailable("NVML does not say how much each process holds") if used is None else scalar(used, "bytes")
        )
        for process in found:
            before = self.others.get(process.pid)
            if process.pid != os.getpid() and (before is None or (process.used_bytes or 0) > (before.used_bytes or 0)):
                self.others[process.pid] = process

    def _unknown(self, reason: str) -> None:
        self.reason, self.own = reason, unavailable(reason)
