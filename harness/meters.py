"""The one meter module: time with the device synchronised, peak memory of a phase, inference latency."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.backbones.backbone import Backbone
from harness.backbones.decoder import DecoderModel
from harness.backbones.decoding import GreedySteps
from harness.record import Meter, distribution, scalar, unavailable
from tasks import Example, Task

LATENCY_SAMPLES = 20
LATENCY_WARM_UP = 3
DECODE_TOKENS = 8
_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_UNTOLD = "the peak resident set of a phase needs a writable {file}: {error}"


class Stopwatch:
    """Wall time since the last restart; waits for the device before it reads the clock."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.restart()

    def restart(self) -> None:
        """Start again from now."""
        self._wait()
        self._start = time.perf_counter()

    def ms(self) -> float:
        """Milliseconds since the last restart."""
        self._wait()
        return (time.perf_counter() - self._start) * 1e3

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


@dataclass
class PeakMemory:
    """Peak memory of one phase.

    `used`: on CUDA the peak of allocated bytes; on CPU the peak resident set of the whole process, libraries, data
    and backbone included. `rise`: `used` less what was in use with nothing but the backbone loaded. `reserved`: CUDA
    only.
    """

    used: Meter
    rise: Meter
    reserved: Meter


def used_memory(device: torch.device) -> int | None:
    """Bytes in use now: allocated ones on CUDA, on CPU the resident set of the process; None where it cannot be told.

    What was freed is given back to the system first, as far as the C library can.
    """
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    _give_back()
    try:
        return _resident_bytes("VmRSS")
    except OSError:
        return None


@contextlib.contextmanager
def peak_memory(device: torch.device, *, before: int | None = None) -> Iterator[Callable[[], PeakMemory]]:
    """Measure the peak memory of the block; call what it yields at the end of the block.

    `before`: bytes that were in use with the backbone alone (`used_memory`), for the rise over them.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: _peak(
            torch.cuda.max_memory_allocated(device),
            before,
            reserved=scalar(torch.cuda.max_memory_reserved(device), "bytes"),
        )
        return
    _give_back()
    none = unavailable("reserved memory is a CUDA allocator's figure; this ran on CPU")
    try:
        _CLEAR_REFS.write_text("5")  # makes the kernel forget the process's earlier peak
    except OSError as error:
        reason = unavailable(_UNTOLD.format(file=_CLEAR_REFS, error=error.strerror))
        yield lambda: PeakMemory(reason, reason, none)
        return
    yield lambda: _peak(_resident_bytes("VmHWM"), before, reserved=none)


def _peak(used: int, before: int | None, *, reserved: Meter) -> PeakMemory:
    untold = unavailable("what was in use before is not known")
    rise = untold if before is None else scalar(max(0, used - before), "bytes")
    return PeakMemory(scalar(used, "bytes"), rise, reserved)


def _give_back() -> None:
    gc.collect()
    # glibc keeps freed memory for later; other C libraries have no such call, and keep what they like.
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def _resident_bytes(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


@dataclass
class Latency:
    """Milliseconds at batch 1, from tokenised text and decoded picture to the answer; what warmed up is left out.

    Of a task that does not decode (`untimed` says so), or prompts that fill the context, the other two are empty.
    """

    infer_ms_per_sample: list[float]
    prefill_ms: list[float]
    decode_ms_per_token: list[float]
    untimed: str

    @property
    def meters(self) -> dict[str, Meter]:
        """The readings as meters of a record."""
        return {
            name: distribution(samples, "ms") if samples else unavailable(self.untimed)
            for name, samples in self.samples.items()
        }

    @property
    def samples(self) -> dict[str, list[float]]:
        """The readings themselves, by meter."""
        return {
            "infer_ms_per_sample": self.infer_ms_per_sample,
            "prefill_ms": self.prefill_ms,
            "decode_ms_per_token": self.decode_ms_per_token,
        }


@torch.inference_mode()
def latency(model: Backbone, task: Task, examples: Sequence[Example]) -> Latency:
    """Time single examples: the task's prediction and, of a task that decodes, prefill (vision included) and steps."""
    infer, prefill, decode = [], [], []
    decoder = model if isinstance(model, DecoderModel) and "decode" in task.needs else None
    watch = Stopwatch(model.device)
    chosen = [examples[i % len(examples)] for i in range(LATENCY_SAMPLES + LATENCY_WARM_UP)]
    for example in chosen:
        batch = task.batch(model, [example], train=False)
        watch.restart()
        task.predict(model, batch, [example])
        infer.append(watch.ms())
        if decoder is None:
            continue
        watch.restart()
        state = decoder.prefill(batch)
        prefill.append(watch.ms())
        room = min(DECODE_TOKENS, decoder.max_length - state.visible.shape[1])
        steps = GreedySteps(decoder, state, room=room)
        for _ in range(room):
            watch.restart()
            steps.advance()
            decode.append(watch.ms())
    untimed = "this task does not decode" if decoder is None else "the prompts fill the context"
    warm_tokens = DECODE_TOKENS * LATENCY_WARM_UP
    return Latency(infer[LATENCY_WARM_UP:], prefill[LATENCY_WARM_UP:], decode[warm_tokens:], untimed)
