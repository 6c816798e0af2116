"""Meters against known answers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

import tasks
from harness import meters
from harness.backbones.decoder import DecoderModel
from harness.record import METERS, Distribution, Scalar, Unavailable
from tasks.mini import scienceqa as mini_scienceqa

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
MIB = 2**20


def peak_of(bytes_touched: int) -> int:
    with meters.peak_memory(CPU) as peak:
        block = bytearray(bytes_touched)
        del block
        reading = peak().used
    assert isinstance(reading, Scalar), reading
    return int(reading.value)


def test_the_stopwatch_counts_milliseconds() -> None:
    watch = meters.Stopwatch(CPU)
    time.sleep(0.05)
    first = watch.ms()
    assert 50 <= first < 5000
    watch.restart()
    assert watch.ms() < first


def test_peak_memory_sees_what_was_freed_and_forgets_the_phase_before() -> None:
    small, large, again = peak_of(MIB), peak_of(400 * MIB), peak_of(MIB)
    assert large - small == pytest.approx(399 * MIB, rel=0.1)
    assert abs(again - small) < 100 * MIB


def test_the_rise_counts_from_what_was_in_use_before() -> None:
    held = bytearray(200 * MIB)
    before = meters.used_memory(CPU)
    with meters.peak_memory(CPU, before=before) as peak:
        block = bytearray(300 * MIB)
        del block
        reading = peak()
    assert isinstance(reading.rise, Scalar)
    assert reading.rise.value == pytest.approx(300 * MIB, rel=0.1)
    assert isinstance(reading.used, Scalar)
    assert reading.used.value - reading.rise.value == before
    assert before is not None
    assert before > len(held)


def test_a_rise_over_what_nobody_read_is_null() -> None:
    with meters.peak_memory(CPU) as peak:
        assert isinstance(peak().rise, Unavailable)


def test_freed_memory_is_given_back_before_it_is_read() -> None:
    before = meters.used_memory(CPU)
    assert before is not None
    kept = [torch.ones(8_000) for _ in range(10_000)]  # 300 MB in blocks below what malloc maps one by one
    last = kept[-1]
    del kept
    after = meters.used_memory(CPU)
    assert after is not None
    assert after - before < 60 * MIB
    assert last.sum() == 8_000


def test_reserved_memory_is_null_with_its_reason_on_cpu() -> None:
    with meters.peak_memory(CPU) as peak:
        reserved = peak().reserved
    assert isinstance(reserved, Unavailable)
    assert "CUDA" in reserved.reason


def test_a_kernel_file_that_cannot_be_written_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(meters, "_CLEAR_REFS", tmp_path / "nowhere" / "clear_refs")
    with meters.peak_memory(CPU) as peak:
        used = peak().used
    assert isinstance(used, Unavailable)
    assert "clear_refs" in used.reason


def test_latency_times_single_examples(tiny_model: DecoderModel, tmp_path: Path) -> None:
    mini_scienceqa.write(tmp_path / "data", train=4, val=2, test=4)
    task = tasks.get("scienceqa")
    examples = task.examples("test", tmp_path / "data", limit=None)
    found = meters.latency(tiny_model, task, examples)
    for name, count in (
        ("infer_ms_per_sample", meters.LATENCY_SAMPLES),
        ("prefill_ms", meters.LATENCY_SAMPLES),
        ("decode_ms_per_token", meters.LATENCY_SAMPLES * meters.DECODE_TOKENS),
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
    found = meters.latency(tiny_model, task, examples).meters["decode_ms_per_token"]
    assert isinstance(found, Unavailable)


def test_every_meter_has_its_definition_and_unit() -> None:
    rows = [line for line in (ROOT / "docs" / "meters.md").read_text().splitlines() if line.startswith("| `")]
    for name, unit in METERS.items():
        [defined] = [row for row in rows if f"`{name}`" in row.split("|")[1] and row.split("|")[2].strip() == unit]
        assert len(defined.split("|")) > 4
