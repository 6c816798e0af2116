"""Where a number comes from: code, packages, machine, data and weights of one run.

Holds no secrets: no environment variables, no host or user name beyond what the command line itself shows.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "triton", "numpy", "vltune")
CODE = ("methods", "tasks", "harness")
"""The packages that make a number."""


def collect(
    *,
    argv: Sequence[str],
    device: str,
    precision: str,
    kernels: str,
    isolated: bool,
    data: Mapping[str, Any],
    weights: Mapping[str, Any],
    code: Mapping[str, Any],
    started: datetime,
    ended: datetime,
) -> dict[str, Any]:
    """The provenance of one run, as JSON types.

    Args:
        argv: the command line.
        device: as torch names it; the GPU is looked up only for a CUDA device.
        precision: of the forward pass.
        kernels: the kernel implementation that ran, not the one asked for.
        isolated: whether the run had a process of its own.
        data: hashes of the data, by the caller's names.
        weights: hashes of the backbone's weights, likewise.
        code: what `code` said before the run.
        started: when the run began.
        ended: when its last measurement ended.

    Raises:
        ValueError: a time without a time zone.
    """
    return {
        "argv": list(argv),
        **code,
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "gpu": _gpu() if device.startswith("cuda") else None,
        "device": device,
        "precision": precision,
        "kernels": kernels,
        "isolated": isolated,
        "data": dict(data),
        "weights": dict(weights),
        "started": _iso(started),
        "ended": _iso(ended),
    }


def code(sources: Mapping[str, Path]) -> dict[str, Any]:
    """Commit and source hashes; to be taken when a run starts, as files may be edited while it goes on.

    Args:
        sources: module name to its file, or to a package folder (its Python files are hashed together).

    Raises:
        OSError: a source cannot be read.
    """
    return {"git": git(), "sources": {name: hash_files(_python_files(path)) for name, path in sources.items()}}


def hash_files(paths: Iterable[Path]) -> str:
    """SHA-256 (hex) of one file's bytes, read in pieces; of several, that of their hashes, a line each, in order.

    Raises:
        OSError: a file cannot be read.
        ValueError: no paths.
    """
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if not digests:
        raise ValueError("no files to hash")
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _python_files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def _iso(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise ValueError(f"time must have a time zone, got {moment}")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def version(package: str) -> str | None:
    """Of an installed package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git() -> dict[str, Any] | None:
    """Commit of this source tree, and whether the code that runs differs from it; None outside of git."""
    here = Path(__file__).resolve()
    # An installed copy inside someone else's repository must not borrow that repository's commit.
    if _output(["git", "ls-files", "--error-unmatch", here.name], here.parent) is None:
        return None
    commit = _output(["git", "rev-parse", "HEAD"], here.parent)
    # Only the code: the results written below the same root are no reason to call it changed.
    status = _output(["git", "status", "--porcelain", "--", *CODE], here.parent.parent)
    return {"commit": commit, "dirty": None if status is None else status != ""}


def _output(command: list[str], folder: Path) -> str | None:
    # Inside a git hook, GIT_DIR would point these commands at another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace").strip()


def _cpu() -> dict[str, Any]:
    import torch

    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "model": cpu_model(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "ram_bytes": ram_bytes(),
    }


def cpu_model() -> str:
    """As the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def ram_bytes() -> int | None:
    """Main memory of the machine; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _gpu() -> dict[str, Any]:
    import torch

    driver = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], Path.cwd())
    return {
        "names": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "driver": driver.splitlines()[0] if driver else None,
        "cuda": torch.version.cuda,
    }
