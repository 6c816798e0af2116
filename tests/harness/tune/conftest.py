"""`run --tune` on a tiny backbone and questions of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli
from tasks.mini import scienceqa as mini_scienceqa
from tests.harness.tune.tuned import Run


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tuned") / "scienceqa"
    mini_scienceqa.write(root, train=16, val=10, test=12)
    return root


@pytest.fixture
def vltune(tiny_folders: tuple[Path, Path], problems: Path, tmp_path: Path) -> Run:
    """`vltune run --tune 3` on the tiny backbone, with trials of 2 of 4 steps."""

    def call(
        *extra: str, methods: str = "memvp", results: str = "results", data: Path = problems, trials: int | None = 3
    ) -> int:
        llm, vision = map(str, tiny_folders)
        where = ["--llm", llm, "--vision", vision, "--data-root", str(data), "--results", str(tmp_path / results)]
        sizes = ["--set", "memvp.slots=16"] if "memvp" in methods else []
        sizes += ["--set", "ademvl.scales=16,4"] if "ademvl" in methods or "blind" in methods else []
        tuned = [] if trials is None else ["--tune", str(trials), "--tune-share", "0.5"]
        options = ["--steps", "4", "--batch-size", "4", "--set", "train.warmup=0", "--device", "cpu", *sizes, *tuned]
        return cli.main(["run", "--methods", methods, "--task", "scienceqa", *where, *options, *extra])

    return call
