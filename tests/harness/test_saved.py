"""What a run saves can be evaluated again as it is, trained further, and is refused where it does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import cli
from harness.checkpoints import own
from tasks.mini import pairs

Run = Callable[..., int]
TASK = "retrieval"  # it has parameters of its own, which are saved too


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs")
    pairs.write(root, train=8, val=2, test=12)
    return root


@pytest.fixture
def vltune(tiny_folders: tuple[Path, Path], data: Path, tmp_path: Path) -> Run:
    def call(*extra: str, methods: str = "llava", steps: int = 4) -> int:
        llm, vision = map(str, tiny_folders)
        where = ["--llm", llm, "--vision", vision, "--data-root", str(data), "--results", str(tmp_path)]
        options = ["--steps", str(steps), "--batch-size", "8", "--set", "train.lr=1e-2", "--device", "cpu"]
        return cli.main(["run", "--methods", methods, "--task", TASK, *where, *options, *extra])

    return call


def made(tmp_path: Path) -> list[tuple[Path, dict]]:
    files = sorted(tmp_path.glob("runs/*/*/*/*.json"))
    return [(file, json.loads(file.read_text())) for file in files]


def saved(file: Path, results: Path) -> Path:
    return results / "adapters" / file.relative_to(results / "runs").with_suffix("")


def predictions(file: Path) -> bytes:
    return file.with_name(f"{file.stem}.predictions.jsonl").read_bytes()


def test_the_folder_of_what_is_saved_is_printed(
    vltune: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vltune("--save", "--set", "llava.tokens=4", steps=1) == 0
    [(file, _)] = made(tmp_path)
    assert f"what was trained -> {saved(file, tmp_path)}" in capsys.readouterr().out


def test_a_saved_run_evaluated_again_predicts_the_same(vltune: Run, tmp_path: Path) -> None:
    assert vltune("--save", "--set", "llava.tokens=4") == 0
    [(first, record)] = made(tmp_path)
    assert {path.name for path in saved(first, tmp_path).iterdir()} == {"adapter.safetensors", "vltune.json"}
    assert vltune("--init", f"llava={saved(first, tmp_path)}", steps=0) == 0
    second, again = next((file, found) for file, found in made(tmp_path) if file != first)
    assert predictions(second) == predictions(first)
    assert again["metrics"] == record["metrics"]
    assert again["meters"]["train_step_ms"] == {"value": None, "reason": "not trained"}
    assert again["cell"]["options"]["method"]["tokens"] == 4
    assert len(again["cell"]["options"]["method"]["init_sha256"]) == 64
    assert vltune("--init", f"llava={saved(first, tmp_path)}", steps=3) == 0  # trained further: another cell
    third = next(file for file, _ in made(tmp_path) if file not in (first, second))
    assert predictions(third) != predictions(first)


def test_nothing_is_saved_unless_asked(vltune: Run, tmp_path: Path) -> None:
    assert vltune() == 0
    assert made(tmp_path)
    assert not (tmp_path / "adapters").exists()


def test_what_does_not_fit_is_one_line_before_any_training(
    vltune: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vltune("--save") == 0
    [(file, _)] = made(tmp_path)
    folder = saved(file, tmp_path)
    refused = {
        "--init lora=": "write METHOD=DIR",
        f"--init lora={folder}": "--init lora",
        f"--init llava={folder} --set llava.tokens=4": "the checkpoint of --init says what llava is",
        f"--init llava={tmp_path / 'nowhere'}": "no such folder",
    }
    for arguments, said in refused.items():
        capsys.readouterr()
        assert vltune(*arguments.split()) == 2
        err = capsys.readouterr().err
        assert said in err
        assert len(err.splitlines()) == 1
    assert vltune(steps=0) == 2
    assert "train.steps=0 must be at least 1 for llava, or give --init llava=DIR" in capsys.readouterr().err
    assert vltune("--init", f"lora={folder}", methods="lora") == 2
    assert "holds a checkpoint of llava, not of lora" in capsys.readouterr().err
    assert len(made(tmp_path)) == 1


def test_heads_that_do_not_fit_are_one_line_before_any_training(
    vltune: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vltune("--save", "--set", "retrieval.width=8", steps=1) == 0
    [(file, _)] = made(tmp_path)
    folder = saved(file, tmp_path)
    again = ("--init", f"llava={folder}")
    assert vltune(*again, "--set", "retrieval.width=8", steps=0) == 0
    capsys.readouterr()
    assert vltune(*again, steps=0) == 2
    shapes = "has shape (8, 48), expected (256, 48); take the task, its options (--set) and the backbone"
    assert f"'head.language_head.weight' {shapes}" in capsys.readouterr().err
    found = own.load(folder)
    state = {name: tensor for name, tensor in found.state.items() if "logit_scale" not in name}
    own.save(tmp_path / "part", method_name="llava", method=found.method, state=state, backbone="", note="")
    assert vltune("--init", f"llava={tmp_path / 'part'}", "--set", "retrieval.width=8", steps=0) == 2
    err = capsys.readouterr().err
    assert "lacks 'head.logit_scale' of shape ()" in err
    assert len(err.splitlines()) == 1
    assert len(made(tmp_path)) == 2


def test_a_checkpoint_of_another_backbone_is_told_once(
    vltune: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vltune("--save", steps=1) == 0
    [(file, _)] = made(tmp_path)
    found = own.load(saved(file, tmp_path))
    options = {"method_name": "llava", "method": found.method, "state": found.state, "note": ""}
    own.save(tmp_path / "other", backbone="another", **options)  # type: ignore[arg-type]
    capsys.readouterr()
    assert vltune("--init", f"llava={saved(file, tmp_path)}", steps=0) == 0
    assert "trained on" not in capsys.readouterr().err
    assert vltune("--init", f"llava={tmp_path / 'other'}", "--seeds", "0,1", steps=0) == 0
    [line] = [line for line in capsys.readouterr().err.splitlines() if "trained on" in line]
    assert line == ("--init of llava on llm+clip: was trained on another, whose features may mean something else")
