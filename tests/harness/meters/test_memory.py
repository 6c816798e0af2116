"""Memory against known amounts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.meters import memory
from harness.meters.memory import peak_memory, used_memory
from harness.record import Scalar, Unavailable

CPU = torch.device("cpu")
MIB = 2**20


def peak_of(bytes_touched: int) -> int:
    with peak_memory(CPU) as peak:
        block = bytearray(bytes_touched)
        del block
        reading = peak().used
    assert isinstance(reading, Scalar), reading
    return int(reading.value)


def test_peak_memory_sees_what_was_freed_and_forgets_the_phase_before() -> None:
    small, large, again = peak_of(MIB), peak_of(400 * MIB), peak_of(MIB)
    assert large - small == pytest.approx(399 * MIB, rel=0.1)
    assert abs(again - small) < 100 * MIB


def test_the_rise_counts_from_what_was_in_use_before() -> None:
    held = bytearray(200 * MIB)
    before = used_memory(CPU)
    with peak_memory(CPU, before=before) as peak:
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
    with peak_memory(CPU) as peak:
        assert isinstance(peak().rise, Unavailable)


def test_freed_memory_is_given_back_before_it_is_read() -> None:
    before = used_memory(CPU)
    assert before is not None
    kept = [torch.ones(8_000) for _ in range(10_000)]  # 300 MB in blocks below what malloc maps one by one
    last = kept[-1]
    del kept
    after = used_memory(CPU)
    assert after is not None
    assert after - before < 60 * MIB
    assert last.sum() == 8_000


def test_reserved_memory_is_null_with_its_reason_on_cpu() -> None:
    with peak_memory(CPU) as peak:
        reserved = peak().reserved
    assert isinstance(reserved, Unavailable)
    assert "CUDA" in reserved.reason


def test_a_kernel_file_that_cannot_be_written_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "nowhere" / "clear_refs")
    with peak_memory(CPU) as peak:
        used = peak().used
    assert isinstance(used, Unavailable)
    assert "clear_refs" in used.reason
