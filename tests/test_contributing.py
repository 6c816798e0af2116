"""The worked examples of CONTRIBUTING.md run as another distribution's plug-ins, found through their entry points."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as pip leaves it: two modules and the metadata that names them."""
    folder = tmp_path_factory.mktemp("site packages")
    method, task = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    (folder / "meantoken.py").write_text(method, encoding="utf-8")
    (folder / "eitheror.py").write_text(task, encoding="utf-8")
    metadata = folder / "example-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1.0\n")
    points = "[vltune.methods]\nmeantoken = meantoken:MeanToken\n[vltune.tasks]\neitheror = eitheror:EitherOr\n"
    (metadata / "entry_points.txt").write_text(points)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("either or")
    for name, colour in (("red", (250, 0, 0)), ("blue", (0, 0, 250))):
        Image.new("RGB", (112, 112), colour).save(folder / f"{name}.png")
    lines = [f"{name}.png\tWhat colour?\t{name}\t{other}" for name, other in (("red", "blue"), ("blue", "red"))] * 8
    for split in ("train", "val", "test"):
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def vltune(plugin: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(plugin), str(ROOT)])}
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=plugin, check=False)


def test_their_names_are_listed(plugin: Path) -> None:
    assert "meantoken" in vltune(plugin, "list", "methods").stdout.splitlines()
    assert "eitheror" in vltune(plugin, "list", "tasks").stdout.splitlines()


def test_they_run_and_learn(plugin: Path, data: Path, tmp_path: Path) -> None:
    command = ["run", "--methods", "meantoken,frozen", "--task", "eitheror"]
    command += ["--data-root", str(data), "--steps", "200", "--batch-size", "8", "--device", "cpu"]
    done = vltune(plugin, *command, "--set", "train.lr=2e-3", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("runs/*/eitheror/*/*.json")}
    assert found["meantoken"]["metrics"]["accuracy"]["value"] == 100.0
    assert found["frozen"]["metrics"]["accuracy"]["value"] == 50.0
    assert found["meantoken"]["meters"]["trainable_params"]["value"] == 128 * 128 + 128


def test_a_bad_line_is_one_line_and_exit_2(plugin: Path, data: Path) -> None:
    (data / "test.tsv").write_text("red.png\tWhat colour?\tred\n")
    command = ["run", "--methods", "meantoken", "--task", "eitheror"]
    done = vltune(plugin, *command, "--data-root", str(data), "--device", "cpu")
    assert done.returncode == 2
    assert "test.tsv: line 1 must be picture, question, right, wrong word" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
