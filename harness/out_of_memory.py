"""When memory runs out: the same batch in smaller parts, as long as there are smaller ones."""

from __future__ import annotations

import ctypes
import gc
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

T = TypeVar("T")

_CPU = re.compile(r"DefaultCPUAllocator: (?:can't allocate memory|not enough memory)[^\n]*?(?P<bytes>\d+) bytes")
_ONEDNN = re.compile(r"could not (?:create|execute) a primitive|could not create a memory")
"""What oneDNN says on a CPU where it gets no memory for a product."""
_DEVICE = re.compile(r"CUDA error: out of memory|CU(?:BLAS|DNN|SPARSE|SOLVER)_STATUS_ALLOC_FAILED")
"""What CUDA and its libraries say where they ask for memory past torch's allocator."""
_CUDA = re.compile(r"Tried to allocate (?P<size>[\d.]+ [KMGT]iB)")


class OutOfMemory(RuntimeError):
    """Even the smallest part does not fit; the message says what was asked for and the ways out."""


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on a GPU or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said.search(str(error)) for said in (_CPU, _ONEDNN, _DEVICE))


def wanted(error: BaseException) -> str:
    """What could not be had, as far as the error tells."""
    if found := _CUDA.search(str(error)):
        return f"another {found['size']}"
    if found := _CPU.search(str(error)):
        return f"another {int(found['bytes']) / 2**20:,.0f} MiB"
    return "more memory"


CONTRASTIVE = "the loss contrasts the examples of a whole batch"
SPLIT = "all processes of fsdp2 must compute the same parts of a batch"


@dataclass
class Parts:
    """Into how many parts a batch of training is cut.

    Attributes:
        count: now; at first what the options say.
        uncut: why a batch cannot be cut into more parts; None where it can.
        device: whose cache is emptied.
        cut_at: by step, the counts that were too small.
        tell: is told each time.
    """

    count: int
    uncut: str | None
    device: torch.device
    cut_at: list[dict[str, int]] = field(default_factory=list)
    tell: Callable[[str], None] = field(default=lambda line: None)

    def compute(
        self,
        parts: list[Any],
        *,
        step: int,
        examples: int,
        compute: Callable[[list[Any]], T],
        again: Callable[[], list[Any]],
        clear: Callable[[], None],
    ) -> T:
        """`compute(parts)`; where memory runs out, with twice as many parts of the same batch, from here on.

        Args:
            parts: of the batch, perhaps made before `count` was raised.
            step: the number of the step, from 1.
            examples: of the whole batch.
            compute: raises what torch raises.
            again: makes the parts anew, as many as `count` says.
            clear: forgets what a part of the batch has left behind.

        Raises:
            OutOfMemory: a part cannot be smaller.
        """
        while True:
            try:
                return compute(parts)
            except Exception as error:
                if not ran_out(error):
                    raise
                lacking = wanted(error)
            # Out of the handler, whose traceback held the tensors of the step.
            made, parts = len(parts), []
            clear()
            _empty(self.device)
            if made >= len(range(0, examples, math.ceil(examples / self.count))):
                self._halve(step, examples, lacking)
            parts = again()

    def _halve(self, step: int, examples: int, lacking: str) -> None:
        if self.uncut is not None:
            raise OutOfMemory(
                f"out of memory at step {step} ({lacking}); {self.uncut}, so it cannot be cut: lower --batch-size or "
                "set train.checkpointing=true"
            )
        if self.count >= examples:
            raise OutOfMemory(
                f"out of memory at step {step} with a single example ({lacking}); set train.checkpointing=true, "
                "--precision bf16, or use a device with more memory"
            )
        self.cut_at.append({"step": step, "parts": self.count})
        self.count = min(2 * self.count, examples)
        self.tell(f"out of memory at step {step} ({lacking}): batches in {self.count} parts from here on")


def in_halves(
    predict: Callable[[list[T]], list[Any]], items: list[T], device: torch.device, *, smallest: list[int]
) -> list[Any]:
    """`predict(items)`; where memory runs out, of each half on its own.

    Args:
        predict: its answers depend on each item alone.
        items: one or more.
        device: whose cache is emptied.
        smallest: gets the sizes that were fallen back to.

    Raises:
        OutOfMemory: a single item does not fit.
    """
    try:
        return predict(items)
    except Exception as error:
        if not ran_out(error):
            raise
        lacking = wanted(error)
    if len(items) == 1:
        raise OutOfMemory(f"out of memory in the evaluation of a single example ({lacking})")
    _empty(device)
    half = (len(items) + 1) // 2
    smallest.append(half)
    return [
        answer
        for part in (items[:half], items[half:])
        for answer in in_halves(predict, part, device, smallest=smallest)
    ]


def _empty(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        # glibc keeps what was freed for itself. Under a limit nothing is left then for memory that is had past it, such
        # as the code that oneDNN makes for products of new shapes.
        trim(0)
