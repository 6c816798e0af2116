"""The doctor: what a default run needs and lacks, whatever else is absent; nothing heavy is loaded or written."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from harness.doctor import examine, lacking, report
from tests.harness.doctor.surroundings import ROOT, Look


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
