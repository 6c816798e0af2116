"""Whole commands on bad input, each in a process of its own: exit code 2, one printable line, no traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.fuzz.tensors import packed
from tests.fuzz.test_data import SCIENCEQA, SPLITS, write
from tests.fuzz.test_pictures import png
from tests.fuzz.test_results_folder import plain, whole

Case = Callable[[Path, Path], tuple[list[str], str]]
"""Puts bad files into a folder (beside a tiny LLM's); gives the command and what its error must name."""


def record(folder: Path, llm: Path) -> tuple[list[str], str]:
    path = folder / "runs" / "a" / "b" / "c" / "2026-00000001.json"
    path.parent.mkdir(parents=True)
    good = plain(whole())
    path.write_text(json.dumps(good | {"status": "\x1b[2J\nok"}), encoding="utf-8")
    return ["leaderboard", "--results", str(folder)], f"{path}: status"


def picture(folder: Path, llm: Path) -> tuple[list[str], str]:
    write(folder, SCIENCEQA, [f"images/{split}/{n}/image.png" for n, split in enumerate(SPLITS, start=1)])
    (folder / "images/val/2/image.png").write_bytes(png(9_000, 10_000))
    return ["data", "check", "--task", "scienceqa", "--data-root", str(folder)], "9,000 x 10,000 pixels"


def checkpoint(folder: Path, llm: Path) -> tuple[list[str], str]:
    path = folder / "checkpoint-19.pth"
    path.write_bytes(packed({"model": {"adapter_emb1": torch.zeros(1).expand(2**40)}}))
    command = ["checkpoint", "import", "--format", "memvp", str(path), "--out", str(folder / "out")]
    return command, f"{path}: 'adapter_emb1' claims shape (1099511627776,)"


def setting(folder: Path, llm: Path) -> tuple[list[str], str]:
    command = ["run", "--methods", "memvp", "--task", "scienceqa", "--results", str(folder)]
    return [*command, "--set", "memvp.slots=" + "9" * 400], "--set memvp.slots: expected a finite number"


def backbone(folder: Path, llm: Path) -> tuple[list[str], str]:
    claiming = shutil.copytree(llm, folder / "llm")
    config = json.loads((claiming / "config.json").read_text(encoding="utf-8"))
    (claiming / "config.json").write_text(json.dumps(config | {"vocab_size": 10**9}), encoding="utf-8")
    write(folder / "data", SCIENCEQA, [f"images/{split}/{n}/image.png" for n, split in enumerate(SPLITS, start=1)])
    command = ["run", "--methods", "frozen", "--task", "scienceqa", "--data-root", str(folder / "data")]
    command += ["--llm", str(claiming), "--vision", str(llm), "--device", "cpu", "--results", str(folder / "results")]
    return command, f"{claiming}: config.json claims"


CASES: tuple[Case, ...] = (record, picture, checkpoint, setting, backbone)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_one_line_and_exit_code_2(case: Case, folder: Path, tiny_folders: tuple[Path, Path]) -> None:
    command, said = case(folder, tiny_folders[0])
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "1"}
    argv = [sys.executable, "-m", "harness", *command]
    ran = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 2, ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr
    [line] = ran.stderr.splitlines()
    assert line.startswith("vltune: error: ")
    assert line.isprintable()
    assert said in line
    assert not list(folder.rglob("results/runs/**/*.json"))
