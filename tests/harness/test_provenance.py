"""Provenance: what is there, what is null, and what must not be there."""

from __future__ import annotations

import getpass
import hashlib
import json
import platform
import subprocess
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from harness import provenance, record

START = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)


def collect(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "argv": ["python", "-m", "harness", "run"],
        "device": "cpu",
        "precision": "fp32",
        "kernels": "reference",
        "isolated": False,
        "data": {"test": "ab"},
        "weights": {"llm": "cd"},
        "started": START,
        "ended": START + timedelta(seconds=1),
    }
    code = provenance.code(changes.pop("sources", {}))
    return provenance.collect(**{**fields, "code": code, **changes})


def test_it_says_what_ran_where_and_when(tmp_path: Path) -> None:
    source = tmp_path / "my method.py"
    source.write_bytes(b"x = 1\n")
    found = collect(sources={"method": source}, started=START.astimezone(timezone(timedelta(hours=5))))
    assert found["argv"] == ["python", "-m", "harness", "run"]
    assert found["python"] == platform.python_version()
    assert found["packages"]["torch"].startswith("2.")
    assert set(found["packages"]) == set(provenance.PACKAGES)
    assert found["cpu"]["model"]
    assert found["cpu"]["cores"] >= 1
    assert found["cpu"]["threads"] >= 1
    assert found["cpu"]["ram_bytes"] > 2**28
    assert found["gpu"] is None
    assert (found["data"], found["weights"]) == ({"test": "ab"}, {"llm": "cd"})
    assert (found["device"], found["precision"], found["kernels"]) == ("cpu", "fp32", "reference")
    assert found["sources"] == {"method": hashlib.sha256(b"x = 1\n").hexdigest()}
    assert found["started"] == "2026-01-02T03:04:05.678+00:00"
    assert found["ended"] == "2026-01-02T03:04:06.678+00:00"


def test_a_cuda_run_names_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 570.1\necho 570.1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: f"GPU {index}")
    gpu = collect(device="cuda:1")["gpu"]
    assert (gpu["names"], gpu["driver"]) == (["GPU 0", "GPU 1"], "570.1")
    monkeypatch.setenv("PATH", "")
    assert collect(device="cuda:1")["gpu"]["driver"] is None


def test_it_fits_into_a_record() -> None:
    cell = record.Cell(method="a", task="b", backbone="c", seed=0, options={})
    found = record.Record(run_id="r", status="failed", reason="x", cell=cell, provenance=collect())
    assert json.loads(found.to_json())["provenance"] == collect()


def test_it_tells_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted_secret")
    text = json.dumps(collect())
    assert "hf_planted_secret" not in text
    host = platform.node()
    assert len(host) < 4 or host not in text
    assert f"/home/{getpass.getuser()}" not in text


def test_a_time_needs_a_zone() -> None:
    with pytest.raises(ValueError, match="time zone"):
        collect(ended=datetime(2026, 1, 1))


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(
        ["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_commit_and_dirty_flag_are_those_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "harness" / "provenance.py"
    module.parent.mkdir()
    module.write_text("x = 1\n")
    monkeypatch.setattr(provenance, "__file__", str(module))
    assert collect()["git"] is None
    git(tmp_path, "init", "-q")
    # Code that lies, untracked, in someone else's repository has no commit.
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "theirs")
    assert collect()["git"] is None
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "ours")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "run.json").write_text("{}")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    clean = collect()["git"]
    monkeypatch.delenv("GIT_DIR")
    assert clean == {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "harness" / "new.py").write_text("y = 2\n")
    assert collect()["git"] == {**clean, "dirty": True}


def test_no_git_at_all_gives_null(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert collect()["git"] is None


def test_hashes_of_files(tmp_path: Path) -> None:
    one, two = tmp_path / "ein s.py", tmp_path / "zwei.py"
    one.write_bytes(b"1" * 1_000_000)
    two.write_bytes(b"2")
    assert provenance.hash_files([one]) == hashlib.sha256(one.read_bytes()).hexdigest()
    assert provenance.hash_files([one, two]) != provenance.hash_files([two, one])
    # Moving a byte from one file to the next changes the hash.
    both = provenance.hash_files([one, two])
    one.write_bytes(b"1" * 1_000_000 + b"2")
    two.write_bytes(b"")
    assert provenance.hash_files([one, two]) != both
    with pytest.raises(FileNotFoundError, match="drei"):
        provenance.hash_files([tmp_path / "drei"])
    with pytest.raises(ValueError, match="no files"):
        provenance.hash_files([])


def test_a_package_is_hashed_by_all_its_python_files(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("a")
    (tmp_path / "b.py").write_text("b")
    before = collect(sources={"kernels": tmp_path})["sources"]["kernels"]
    assert before == provenance.hash_files([tmp_path / "a.py", tmp_path / "b.py"])
    (tmp_path / "b.py").write_text("c")
    assert collect(sources={"kernels": tmp_path})["sources"]["kernels"] != before
