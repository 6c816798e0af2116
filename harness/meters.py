"""The one meter module: time with the device synchronised, peak memory of a phase, inference latency."""

from __future__ import annotations

import contextlib
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
    and backbone included. `reserved`: CUDA only.
    """

    used: Meter
    reserved: Meter


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], PeakMemory]]:
    """Measure the peak memory of the block; call what it yields at the end of the block."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: PeakMemory(
            scalar(torch.cuda.max_memory_allocated(device), "bytes"),
            scalar(torch.cuda.max_memory_reserved(device), "bytes"),
        )
        return
    reason = _reset_peak_resident()
    yield lambda: PeakMemory(
        unavailable(reason) if reason else scalar(_peak_resident_bytes(), "bytes"),
        unavailable("reserved memory is a CUDA allocator's figure; this ran on CPU"),
    )


def _reset_peak_resident() -> str | None:
    """Make the kernel forget the process's earlier peak; the reason when it cannot."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError as error:
        return f"the peak resident set of a phase needs a writable {_CLEAR_REFS}: {error.strerror}"
    return None


def _peak_resident_bytes() -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


@dataclass
class Latency:
    """Inference latency at batch 1, from tokenised text and decoded picture to the answer."""

    infer_ms_per_sample: Meter
    prefill_ms: Meter
    decode_ms_per_token: Meter


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
    if decoder is None:
        reason = unavailable("this task does not decode")
        return Latency(distribution(infer[LATENCY_WARM_UP:], "ms"), reason, reason)
    warm = DECODE_TOKENS * LATENCY_WARM_UP
    return Latency(
        distribution(infer[LATENCY_WARM_UP:], "ms"),
        distribution(prefill[LATENCY_WARM_UP:], "ms"),
        distribution(decode[warm:], "ms") if len(decode) > warm else unavailable("the prompts fill the context"),
    )
