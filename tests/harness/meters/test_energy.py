"""Joules against known counters: a recorded NVML and a powercap folder."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from harness.meters import energy
from harness.record import Meter, Scalar, Unavailable

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
UUID = "6b3c9c1e-0f6a-4f0e-9d43-3f3f9b1c7a55"


def zone(root: Path, name: str, domain: str, microjoules: int, *, turn: int = 262_143_328_850) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{domain}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{turn}\n")
    return folder / "energy_uj"


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    return tmp_path


def reason(meter: Meter) -> str:
    assert isinstance(meter, Unavailable), meter
    return meter.reason


def test_packages_are_summed_and_their_parts_are_not(powercap: Path) -> None:
    first = zone(powercap, "intel-rapl:0", "package-0", 1_000_000)
    second = zone(powercap, "intel-rapl:1", "package-1", 5_000_000)
    others = [
        zone(powercap, "intel-rapl:0:0", "core", 0),
        zone(powercap, "intel-rapl:0:1", "dram", 0),
        zone(powercap, "intel-rapl:2", "psys", 0),
        zone(powercap, "intel-rapl-mmio:0", "package-0", 0),
    ]
    with energy.energy(CPU) as joules:
        first.write_text("3500000\n")
        second.write_text("5250000\n")
        for other in others:
            other.write_text("900000000\n")
        assert joules() == Scalar(value=2.75, unit="joules")


def test_a_counter_that_starts_again_goes_on(powercap: Path) -> None:
    counter = zone(powercap, "intel-rapl:0", "package-0", 900_000, turn=1_000_000)
    with energy.energy(CPU) as joules:
        counter.write_text("100000\n")
        assert joules() == Scalar(value=0.2, unit="joules")
        counter.write_text("50000\n")
        assert joules() == Scalar(value=1.15, unit="joules")


def test_every_turn_of_a_long_phase_is_seen_and_the_thread_ends(
    powercap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls: list[int] = []
    poll = energy._Package.poll

    def noted(package: energy._Package) -> int:
        polls.append(used := poll(package))
        return used

    monkeypatch.setattr(energy._Package, "poll", noted)
    monkeypatch.setattr(energy, "POLL_S", 0.001)
    counter = zone(powercap, "intel-rapl:0", "package-0", 0, turn=1_000_000)
    replacement = powercap / "next"

    def see(value: int) -> None:
        replacement.write_text(str(value))
        replacement.replace(counter)  # at once: the thread must never read half a number
        wanted = len(polls) + 2
        deadline = time.monotonic() + 30
        while len(polls) < wanted:
            assert time.monotonic() < deadline, "the counter was not read"
            time.sleep(0.001)

    with energy.energy(CPU) as joules:
        assert any(thread.name == "energy" for thread in threading.enumerate())
        for value in (800_000, 100_000, 700_000, 100_000):  # two turns
            see(value)
        assert joules() == Scalar(value=2.1, unit="joules")
    assert not any(thread.name == "energy" for thread in threading.enumerate())


def test_without_counters_the_reason_names_what_is_missing(powercap: Path) -> None:
    with energy.energy(CPU) as joules:
        assert f"no RAPL package domain (intel-rapl:N) in {powercap}" in reason(joules())


def test_a_file_that_cannot_be_read_is_named(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = zone(powercap, "intel-rapl:0", "package-0", 1)
    read = Path.read_text

    def refusing(path: Path) -> str:  # root, who may run this test, can read every file
        if path == counter:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_text", refusing)
    with energy.energy(CPU) as joules:
        assert reason(joules()) == f"the CPU's energy needs a readable {counter}: Permission denied"


@pytest.mark.parametrize("broken", ["", "many", "1.5"])
def test_a_counter_that_breaks_during_the_phase_is_a_reason(powercap: Path, broken: str) -> None:
    counter = zone(powercap, "intel-rapl:0", "package-0", 1)
    with energy.energy(CPU) as joules:
        counter.write_text(broken)
        assert reason(joules()) == f"{counter} should hold a number of microjoules, got {broken!r}"
        counter.unlink()
        assert reason(joules()) == f"the CPU's energy needs a readable {counter}: No such file or directory"


def test_an_error_of_the_block_passes_through(powercap: Path) -> None:
    zone(powercap, "intel-rapl:0", "package-0", 1)
    with pytest.raises(ZeroDivisionError), energy.energy(CPU):
        raise ZeroDivisionError
    assert not any(thread.name == "energy" for thread in threading.enumerate())


def test_another_device_has_no_counter() -> None:
    with energy.energy(torch.device("meta")) as joules:
        assert reason(joules()) == "there is no energy counter for meta, only for cuda and cpu"


class NvmlError(Exception):
    """As nvidia-ml-py's."""


class Nvml(SimpleNamespace):
    """What nvidia-ml-py's module says of one GPU: recorded total energy in millijoules, reading by reading."""

    NVMLError = NvmlError

    def __init__(self, recorded: list[int | NvmlError], *, starts: bool = True) -> None:
        super().__init__(recorded=iter(recorded), starts=starts, open=0, calls=[])

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's names
        if not self.starts:
            raise NvmlError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self.calls.append(uuid)
        return f"handle of {uuid}"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        assert handle == f"handle of GPU-{UUID}"
        self.calls.append("energy")
        reading = next(self.recorded)
        if isinstance(reading, NvmlError):
            raise reading
        return reading


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Nvml]]:
    """Put an `Nvml` into the list; torch's part of a GPU that is not here is replaced too."""
    given: list[Nvml] = []

    def synchronise(device: torch.device) -> None:
        given[0].calls.append(f"waited for {device}")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronise)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid=UUID))
    yield given
    assert all(nvml.open == 0 for nvml in given)


def use(monkeypatch: pytest.MonkeyPatch, gpu: list[Nvml], nvml: Nvml) -> Nvml:
    gpu.append(nvml)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)  # type: ignore[arg-type]
    return nvml


def test_a_gpu_counts_millijoules_once_its_work_is_done(gpu: list[Nvml], monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = use(monkeypatch, gpu, Nvml([4_811_302_114, 4_811_420_871]))
    with energy.energy(GPU) as joules:
        assert nvml.open == 1
        assert joules() == Scalar(value=118.757, unit="joules")
    assert nvml.calls == 2 * ["waited for cuda:0", f"GPU-{UUID}", "energy"]


@pytest.mark.parametrize(
    ("nvml", "words"),
    [
        (Nvml([NvmlError("Not Supported")]), "NVML has no total energy of cuda:0: Not Supported"),
        (Nvml([17, NvmlError("GPU is lost")]), "NVML has no total energy of cuda:0: GPU is lost"),
        (Nvml([], starts=False), "a GPU is asked through NVML, which does not start: Driver Not Loaded"),
    ],
)
def test_what_nvml_refuses_is_the_reason(
    gpu: list[Nvml], monkeypatch: pytest.MonkeyPatch, nvml: Nvml, words: str
) -> None:
    use(monkeypatch, gpu, nvml)
    with energy.energy(GPU) as joules:
        assert reason(joules()) == words


def test_without_nvidia_ml_py_the_reason_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # type: ignore[arg-type]
    with energy.energy(GPU) as joules:
        assert "pip install 'vltune[gpu]'" in reason(joules())
