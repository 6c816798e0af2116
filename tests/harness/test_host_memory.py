"""A limit on the memory of a real process: batches are cut, or the record says what was lacking."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.record import Record
from harness.store import Store
from tasks.mini import scienceqa as mini_scienceqa

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")


def run(folders: tuple[Path, Path], root: Path, results: str, *more: str) -> subprocess.CompletedProcess[str]:
    llm, vision = map(str, folders)
    where = ["--llm", llm, "--vision", vision, "--data-root", str(root / "data"), "--results", str(root / results)]
    size = ["--steps", "2", "--batch-size", "1024", "--device", "cpu", "--set", "train.eval_batch_size=8"]
    words = ["run", "--methods", "full", "--task", "scienceqa", *where, *size, *more]
    # One arena of the C library: what a part has freed of its small pieces is there for the next one.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    return subprocess.run(
        [sys.executable, "-m", "harness", *words], env=environment, capture_output=True, text=True, timeout=300
    )


def records(root: Path) -> dict[str, Record]:
    return {record.cell.method: record for record in Store(root).read()}


@pytest.mark.slow
def test_a_batch_is_cut_until_it_fits_and_the_losses_stay(tiny_folders: tuple[Path, Path], tmp_path: Path) -> None:
    mini_scienceqa.write(tmp_path / "data", seed=0, train=1024, val=2, test=8)
    assert run(tiny_folders, tmp_path, "whole").returncode == 0
    told = run(tiny_folders, tmp_path, "none", "--memory-gib", "0.01").stderr
    [used] = re.findall(r": (\d\.\d) GiB are in use", told)
    limit = float(used) + 1.0
    done = run(tiny_folders, tmp_path, "limited", "--memory-gib", str(limit))
    assert done.returncode == 0, done.stdout + done.stderr
    whole, limited = records(tmp_path / "whole"), records(tmp_path / "limited")
    assert [cut["parts"] for cut in limited["full"].provenance["out_of_memory"]["training"]][:1] == [1]
    assert limited["full"].provenance["memory_limit_gib"] == limit
    first, second = (
        (Store(tmp_path / name).samples(found["full"]) or {})["train_loss"]
        for name, found in (("whole", whole), ("limited", limited))
    )
    assert second == pytest.approx(first, rel=1e-5)


def test_a_limit_that_is_reached_at_once_is_told(tiny_folders: tuple[Path, Path], tmp_path: Path) -> None:
    mini_scienceqa.write(tmp_path / "data", seed=0, train=8, val=2, test=8)
    done = run(tiny_folders, tmp_path, "none", "--memory-gib", "0.01")
    assert done.returncode == 2
    assert "GiB are in use before any run; give more" in done.stderr
    assert "Traceback" not in done.stderr


FREED = """
import torch
from harness import host_memory
host_memory.limit(64)
torch.empty(16 << 20, dtype=torch.uint8)  # freed at once: glibc's heap takes what is smaller from here on
before = host_memory._data_bytes()
large = [torch.empty(8 << 20, dtype=torch.uint8) for _ in range(20)]
small = [torch.empty(1000, dtype=torch.uint8) for _ in range(200)]
del large
print((host_memory._data_bytes() - before) >> 20)
"""


def test_what_is_freed_under_a_limit_is_there_for_others() -> None:
    left = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True, timeout=120).stdout
    assert int(left) < 16
