"""Several processes that train one cell together, as torchrun or accelerate launch start them.

Each takes its share of every batch. Gradients and losses are summed, weighted by what a share counts (`Task.weight`),
so a step is that of the whole batch, whatever the number of processes; only rank 0 writes. Nothing is wrapped: what is
trained is small beside the backbone, and one message a step carries all its gradients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

T = TypeVar("T")
PATIENCE = timedelta(days=7)
"""How long a process waits for another, which may wait for cells of others, or hash pictures; one that ends is seen."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run; by default it is alone.

    Attributes:
        rank: of this process, from 0.
        count: of all processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.count == 1

    @property
    def first(self) -> bool:
        """Whether this one writes and prints."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of a batch: neighbours, sizes that differ by one at most."""
        return items[len(items) * self.rank // self.count : len(items) * (self.rank + 1) // self.count]

    def total(self, value: float) -> float:
        """The sum over all processes, the same bits on each."""
        return value if self.alone else sum(self.gather(value))

    def gather(self, item: T) -> list[T]:
        """What each process gives, in the order of ranks. Travels as a pickle between processes of one run."""
        if self.alone:
            return [item]
        found: list[T | None] = [None] * self.count
        dist.all_gather_object(found, item)
        return cast(list[T], found)

    def tell(self, item: T) -> T:
        """What rank 0 gives, on every process."""
        if self.alone:
            return item
        box: list[Any] = [item]
        dist.broadcast_object_list(box, src=0)
        return cast(T, box[0])

    def rows(self, rows: Tensor) -> Tensor:
        """The rows of all processes in the order of ranks, with gradients to those of each.

        What follows is computed alike on every process; each counts its result by its share, so that the gradient,
        which is summed over processes, is that of the result.
        """
        return rows if self.alone else cast(Tensor, _Rows.apply(rows, self))  # type: ignore[no-untyped-call]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of parameters that every process holds whole; of split ones FSDP2 has made means.

        One that has a gradient on no process keeps none: AdamW leaves it alone.
        """
        if self.alone:
            return
        parameters = list(parameters)
        for parameter in parameters:
            if isinstance(parameter, DTensor) and parameter.grad is not None:
                parameter.grad.mul_(self.count)
        whole = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        if not whole:
            return
        flat = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).detach().flatten() for p in whole]
            + [torch.tensor([p.grad is not None for p in whole], device=whole[0].device).to(whole[0].dtype)]
        )
        dist.all_reduce(flat)
        *sums, seen = flat.split([p.numel() for p in whole] + [len(whole)])
        for parameter, gradient, count in zip(whole, sums, seen.tolist(), strict=True):
            parameter.grad = gradient.view_as(parameter).clone() if count else None


ALONE = Ranks()


class _Rows(torch.autograd.Function):
    """All rows of all processes; backward, the summed gradient of this one's."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: Ranks) -> Tensor:
        counts = ranks.gather(len(rows))
        ctx.at = slice(sum(counts[: ranks.rank]), sum(counts[: ranks.rank + 1]))
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = gradients[0].contiguous()
        dist.all_reduce(whole)
        return whole[ctx.at], None


def lost(error: BaseException) -> bool:
    """Whether an error says no more than that another process has ended."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


@contextlib.contextmanager
def together(ranks: Ranks, device: str) -> Iterator[None]:
    """Connect the processes for the block: gloo between CPUs, NCCL between GPUs."""
    if ranks.alone:
        yield
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()
