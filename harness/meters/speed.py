"""Speed: time with the device synchronised, and the latency of inference."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from harness.backbones.backbone import Backbone
from harness.backbones.decoder import DecoderModel
from harness.backbones.decoding import GreedySteps
from harness.record import Meter, distribution, unavailable
from tasks import Example, Task

LATENCY_SAMPLES = 20
LATENCY_WARM_UP = 3
DECODE_TOKENS = 8


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
