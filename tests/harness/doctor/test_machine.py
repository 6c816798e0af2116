"""The doctor on the machine: devices and their kernels, the compiler, folders, memory and cores, the hub."""

from __future__ import annotations

import os
import shutil
import sys
import types
import warnings
from pathlib import Path

import pytest

from harness import provenance
from harness.doctor import Finding, examine, lacking, machine
from tests.harness.doctor.surroundings import Look, checkout, program


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `nvidia-smi` on the PATH."""
    smi = program(tmp_path / "bin", "nvidia-smi", "echo 580.95.05")
    monkeypatch.setenv("PATH", f"{smi.parent}{os.pathsep}{os.environ['PATH']}")


def gpu(monkeypatch: pytest.MonkeyPatch, *, bf16: bool = True) -> None:
    """What torch says on a machine with one GPU."""
    import torch

    properties = types.SimpleNamespace(name="NVIDIA H200", total_memory=150_754_820_096)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16 or including_emulation)


@pytest.mark.usefixtures("driver")
def test_a_gpu(look: Look, versions: dict[str, str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    from methods.kernels import memory_read

    gpu(monkeypatch)
    monkeypatch.setattr(memory_read, "_HAS_TRITON", True)
    monkeypatch.setattr(memory_read, "INTERPRETED", False)
    monkeypatch.setattr(machine, "_has_headers", lambda: True)
    monkeypatch.setenv("CC", "cc")
    versions.update({"triton": "3.9.0", "torch": "2.13.0"})
    found = look()
    assert found["torch"].detail == "2.13.0, built for CUDA 13.0"
    assert found["CUDA device"].detail == "NVIDIA H200 150.8 GB, driver 580.95.05"
    assert found["bf16"].detail == "in the GPU's hardware"
    assert found["Triton kernels"].detail == "Triton 3.9.0 on cuda"
    assert {found[name].state for name in ("torch", "CUDA device", "bf16", "Triton kernels")} == {"ok"}


def test_a_gpu_that_cannot_start_kernels(
    look: Look, versions: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from methods.kernels import memory_read

    gpu(monkeypatch, bf16=False)
    monkeypatch.setattr(memory_read, "_HAS_TRITON", True)
    monkeypatch.setattr(memory_read, "INTERPRETED", False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    versions["triton"] = "3.9.0"
    found = look()
    assert found["bf16"].state == found["Triton kernels"].state == "limited"
    assert "no C compiler" in found["Triton kernels"].detail
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(machine, "_has_headers", lambda: False)
    assert "no Python.h" in look()["Triton kernels"].detail


def test_triton_on_a_cpu(look: Look, versions: dict[str, str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    from methods.kernels import memory_read

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(memory_read, "_HAS_TRITON", True)
    monkeypatch.setattr(memory_read, "INTERPRETED", False)
    versions["triton"] = "3.9.0"
    line = look()["Triton kernels"]
    assert (line.state, line.fix) == ("limited", "set TRITON_INTERPRET=1 to interpret it (slowly)")
    assert line.detail.endswith("Triton needs a CUDA device, got cpu")
    monkeypatch.setattr(memory_read, "INTERPRETED", True)
    assert look()["Triton kernels"].fix == "unset TRITON_INTERPRET"
    versions["triton"] = None
    assert look()["Triton kernels"].state == "missing"
    assert look()["Triton kernels"].fix.endswith(checkout("[gpu]"))


@pytest.mark.usefixtures("driver")
def test_a_driver_that_torch_does_not_use(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.version.cuda", None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = look()
    assert "built for CPU, but there is an NVIDIA driver" in found["torch"].detail
    assert found["CUDA device"].detail == "driver 580.95.05, but torch finds no device"
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert look()["CUDA device"].fix == "unset CUDA_VISIBLE_DEVICES"

    def too_old() -> bool:
        warnings.warn("CUDA initialization: the driver\n is too old", stacklevel=1)
        return False

    monkeypatch.setattr("torch.cuda.is_available", too_old)
    assert look()["CUDA device"].detail == "CUDA initialization: the driver is too old"


def test_nvml(look: Look, versions: dict[str, str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    def fail() -> None:
        raise NVMLError("NVML Shared Library Not Found")

    fake = types.SimpleNamespace(NVMLError=NVMLError, nvmlInit=fail, nvmlShutdown=lambda: None)
    fake.nvmlDeviceGetCount = lambda: 2
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    versions["nvidia-ml-py"] = "13.580.0"
    assert look()["NVML"].state == "limited"
    assert look()["NVML"].detail == "nvidia-ml-py 13.580.0, but NVML Shared Library Not Found"
    fake.nvmlInit = lambda: None
    assert look()["NVML"].detail == "nvidia-ml-py 13.580.0, devices: 2"


def test_the_compiler(look: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cxx = program(tmp_path / "bin", "my-c++", "echo 'my-c++ 12.2.0'")
    monkeypatch.setenv("CXX", f"{cxx} -O1")
    monkeypatch.setattr(machine, "_has_headers", lambda: True)
    assert (look()["C++ compiler"].state, look()["C++ compiler"].detail) == ("ok", f"my-c++ 12.2.0, {cxx}")
    monkeypatch.setattr(machine, "_has_headers", lambda: False)
    assert look()["C++ compiler"].state == "limited"
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert look()["C++ compiler"].detail == "CXX=no-such-compiler is no program"
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert look()["C++ compiler"].state == "missing"


def test_folders(look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not made yet, 0 records" in look()["results folder"].detail
    runs = tmp_path / "results/runs/mini/scienceqa/lora"
    runs.mkdir(parents=True)
    for name in ("a.json", "b.json", ".c.json", "a.predictions.jsonl"):
        (runs / name).touch()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/data").write_bytes(bytes(3_000_000))
    found = look()
    assert f"{tmp_path / 'results'}, 2 records, " in found["results folder"].detail
    assert f"{tmp_path / 'cache'}, 3 MB, " in found["cache folder"].detail
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert look()["cache folder"].state == "limited"
    assert look()["results folder"].fix == "free some space, or choose another with --results DIR"


@pytest.mark.parametrize("kind", ["a file", "below a file", "closed"])
def test_folders_that_cannot_be_written(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").touch()
    path = {"a file": tmp_path / "file", "below a file": tmp_path / "file/results", "closed": Path("/proc/vltune")}[
        kind
    ]
    findings = examine(results=path, cache=path)
    assert lacking(findings) == ["cache folder", "results folder"]
    [cache, results] = [finding for finding in findings if finding.name.endswith(" folder")]
    assert f"{path} cannot be written (" in results.detail
    assert results.fix == "choose another with --results DIR"
    assert cache.fix == "set VLTUNE_CACHE to a folder that can be written"


def test_the_cache_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cache() -> Finding:
        return next(finding for finding in examine(results=tmp_path) if finding.name == "cache folder")

    monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path / "mine"))
    assert cache().detail.startswith(f"{tmp_path / 'mine'}, not made yet")
    for name in ("VLTUNE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert (cache().state, cache().fix) == ("missing", "set VLTUNE_CACHE to a folder that can be written")


def test_the_limits_of_a_container(look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.setattr(provenance, "ram_bytes", lambda: 256 * 10**9)
    monkeypatch.setattr("torch.get_num_threads", lambda: 32)
    found = look()
    assert (found["RAM"].state, found["RAM"].detail) == ("ok", "256.0 GB")
    assert found["CPU"].state == "ok"
    (tmp_path / "memory.max").write_text("4000000000\n")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    found = look()
    assert (found["RAM"].state, found["RAM"].detail) == ("limited", "4.0 GB, backbone smol takes 6 GB")
    assert (found["CPU"].state, found["CPU"].fix) == ("limited", "export OMP_NUM_THREADS=2")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    found = look()
    assert found["RAM"].state == "ok"
    assert (found["CPU"].state, found["CPU"].fix) == ("limited", "unset OMP_NUM_THREADS")


def test_hugging_face(look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hub/models--a--b").mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert look()["Hugging Face"].detail == f"online, 1 models in {tmp_path / 'hub'}"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    line = look()["Hugging Face"]
    assert (line.state, line.fix) == ("limited", "unset HF_HUB_OFFLINE to load others by id")
