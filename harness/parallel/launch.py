"""How a run was started: alone, or by torchrun (accelerate launch uses it too) as several processes for each cell."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Literal

from harness.settings import UsageError

Parallel = Literal["ddp", "fsdp2"]
_OTHERS = ("ACCELERATE_", "FSDP_", "OMPI_", "MV2_", "PMI_")
_STARTED, _PLACE = "TORCHELASTIC_RUN_ID", ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Launch:
    """This process among those that share each cell.

    Attributes:
        rank, count: of this process, from 0, and of all.
        local, neighbours: the same on this machine alone.
        parallel: `ddp`: each process holds the whole backbone; `fsdp2`: a part of each layer's weights.
    """

    rank: int = 0
    count: int = 1
    local: int = 0
    neighbours: int = 1
    parallel: Parallel = "ddp"

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.count == 1

    def device(self, name: str, *, gpus: int) -> str:
        """The GPU of this process; a CPU is shared.

        Raises:
            UsageError: fewer GPUs than processes, or one GPU is named for all.
        """
        if self.alone or name == "cpu":
            return name
        if name not in ("auto", "cuda"):
            raise UsageError(f"--device {name}: each process of torchrun has a GPU of its own; drop it")
        if not gpus:
            return "cpu"
        if gpus < self.neighbours:
            raise UsageError(
                f"{self.neighbours} processes on a machine with {gpus} GPUs: start as many as there are GPUs "
                "(torchrun --nproc-per-node), or use --device cpu"
            )
        return f"cuda:{self.local}"


ALONE = Launch()


def settle(started: Launch, environment: MutableMapping[str, str] = os.environ) -> None:
    """Take out of the environment what would have `accelerate` change a run that says otherwise.

    Its launcher hands its own settings down (gradients divided by its accumulation, models wrapped by its FSDP), and
    what MPI, SLURM or a launcher with one process leave there would have a process that is alone wait for others.
    """
    alone = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE") if started.alone else ()
    for name in [name for name in environment if name.startswith(_OTHERS) or name in alone]:
        del environment[name]


def find(parallel: Parallel | None, environment: Mapping[str, str] = os.environ) -> Launch:
    """How this process was started.

    Raises:
        UsageError: `parallel` is asked for in a process that is alone.
    """
    if _STARTED in environment and int(environment["WORLD_SIZE"]) > 1:
        rank, count, local, neighbours = (int(environment[name]) for name in _PLACE)
        return Launch(rank, count, local, neighbours, parallel or "ddp")
    if parallel is not None:
        raise UsageError(
            f"--parallel {parallel}: says how several processes share a run; start them by "
            "'torchrun --nproc-per-node N -m harness run ...'"
        )
    return ALONE
