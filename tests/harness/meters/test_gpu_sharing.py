"""Who is on a GPU, as a recorded NVML tells it."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.meters.gpu_sharing import Sharing
from harness.record import Meter, Scalar, Unavailable

GPU = torch.device("cuda:1")
UUID = "6b3c9c1e-0f6a-4f0e-9d43-3f3f9b1c7a55"
ME = os.getpid()
GIB = 2**30


class NvmlError(Exception):
    """As nvidia-ml-py's."""


class Nvml(SimpleNamespace):
    """What nvidia-ml-py's module says of the processes on one GPU, look by look."""

    NVMLError = NvmlError

    def __init__(self, *looks: dict[int, int | None] | NvmlError) -> None:
        super().__init__(looks=iter(looks), open=0)

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's names
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:  # noqa: N802
        assert handle == f"GPU-{UUID}"
        look = next(self.looks)
        if isinstance(look, NvmlError):
            raise look
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in look.items()]


def after(monkeypatch: pytest.MonkeyPatch, *looks: dict[int, int | None] | NvmlError) -> Sharing:
    nvml, sharing = Nvml(*looks), Sharing(GPU)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid=UUID))
    for _ in looks:
        sharing.look()
    assert nvml.open == 0
    return sharing


def reason(meter: Meter) -> str:
    assert isinstance(meter, Unavailable), meter
    return meter.reason


def test_alone_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    sharing = after(monkeypatch, {ME: GIB}, {ME: 3 * GIB})
    assert sharing.own == Scalar(value=3 * GIB, unit="bytes")
    assert sharing.as_json() == {"others": []}


def test_others_are_listed_with_the_most_they_held_though_they_came_and_went(monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = ME + 1, ME + 2
    sharing = after(monkeypatch, {ME: GIB, first: 5}, {first: 9, ME: GIB}, {ME: GIB, first: 7, last: None}, {ME: GIB})
    assert sharing.as_json() == {"others": [{"pid": first, "used_bytes": 9}, {"pid": last, "used_bytes": None}]}


def test_process_numbers_of_another_namespace_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sharing = after(monkeypatch, {ME + 1: GIB})
    found = sharing.as_json()
    assert found is not None
    assert found["others"] is None
    assert f"none with this one's number {ME}" in found["reason"] == reason(sharing.own)


def test_a_driver_that_does_not_tell_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    sharing = after(monkeypatch, {ME: GIB}, NvmlError("Not Supported"))
    assert sharing.as_json() == {"others": None, "reason": "NVML has no processes of cuda:1: Not Supported"}
    assert "NVML does not say how much" in reason(after(monkeypatch, {ME: None}).own)


def test_a_cpu_is_not_asked() -> None:
    sharing = Sharing(torch.device("cpu"))
    sharing.look()
    assert sharing.as_json() is None
    assert "CPU" in reason(sharing.own)
