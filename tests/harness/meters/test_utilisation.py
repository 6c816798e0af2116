"""The share of the device's rate, by hand, and what is said where that rate cannot be had."""

from __future__ import annotations

import pytest
import torch

from harness.bench.ceiling import Ceiling
from harness.meters import utilisation
from harness.record import Scalar, Unavailable, scalar, unavailable


def reading(flops: float | None) -> object:
    meter = unavailable("no") if flops is None else scalar(flops, "FLOPs")
    device = torch.device("cpu")
    return utilisation.utilisation(meter, [5.0, 10.0, 90.0], samples_per_step=4, device=device, precision="fp32")


@pytest.fixture(autouse=True)
def measured_anew() -> None:
    utilisation._best_flops_per_s.cache_clear()


def test_the_share_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utilisation.ceiling, "measure", lambda device, dtype: Ceiling(1.0, 1e6))
    # 4 x 500 FLOPs in 10 ms are a fifth of 10^6 in a second.
    found = reading(500.0)
    assert isinstance(found, Scalar)
    assert (found.value, found.unit) == (pytest.approx(20.0), "%")
    assert isinstance(reading(None), Unavailable)


def test_a_device_without_room_for_the_measurement_costs_the_meter_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(device: torch.device, dtype: torch.dtype) -> Ceiling:
        raise torch.OutOfMemoryError("CUDA out of\nmemory")

    monkeypatch.setattr(utilisation.ceiling, "measure", full)
    found = reading(500.0)
    assert isinstance(found, Unavailable)
    assert found.reason == "the device's rate could not be measured: OutOfMemoryError: CUDA out of memory"
