"""The stopwatch and latencies against known answers."""

from __future__ import annotations

import time
from pathlib import Path

import torch

import tasks
from harness.backbones.decoder import DecoderModel
from harness.meters import speed
from harness.meters.speed import Stopwatch
from harness.record import Distribution, Unavailable
from tasks.mini import scienceqa as mini_scienceqa

CPU = torch.device("cpu")


def test_the_stopwatch_counts_milliseconds() -> None:
    watch = Stopwatch(CPU)
    time.sleep(0.05)
    first = watch.ms()
    assert 50 <= first < 5000
    watch.restart()
    assert watch.ms() < first


def test_latency_times_single_examples(tiny_model: DecoderModel, tmp_path: Path) -> None:
    mini_scienceqa.write(tmp_path / "data", train=4, val=2, test=4)
    task = tasks.get("scienceqa")
    examples = task.examples("test", tmp_path / "data", limit=None)
    found = speed.latency(tiny_model, task, examples)
    for name, count in (
        ("infer_ms_per_sample", speed.LATENCY_SAMPLES),
        ("prefill_ms", speed.LATENCY_SAMPLES),
        ("decode_ms_per_token", speed.LATENCY_SAMPLES * speed.DECODE_TOKENS),
    ):
        reading = found.meters[name]
        assert isinstance(reading, Distribution)
        assert reading.n == len(found.samples[name]) == count
        assert 0 < reading.p20 <= reading.median <= reading.p80


def test_a_full_context_leaves_nothing_to_decode(tiny_model: DecoderModel, tmp_path: Path) -> None:
    mini_scienceqa.write(tmp_path / "data", train=4, val=2, test=4)
    task = tasks.get("scienceqa")
    examples = task.examples("test", tmp_path / "data", limit=None)
    tiny_model.text.max_length = 10
    found = speed.latency(tiny_model, task, examples).meters["decode_ms_per_token"]
    assert isinstance(found, Unavailable)
