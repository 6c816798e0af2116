"""Bad input: one clear line that names the file, the field and the fix, exit code 2, no record, nothing trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from harness import cli, run
from tasks.mini import scienceqa as mini_scienceqa

Spoil = Callable[[Path], None]


@pytest.fixture(scope="session")
def good_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good") / "scienceqa"
    mini_scienceqa.write(root, train=8, val=4, test=8)
    return root


@pytest.fixture
def data(good_data: Path, tmp_path: Path) -> Path:
    return shutil.copytree(good_data, tmp_path / "my data" / "scienceqa")


@pytest.fixture
def folders(tiny_folders: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    llm, vision = (shutil.copytree(folder, tmp_path / folder.name) for folder in tiny_folders)
    return llm, vision


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a cell was started")

    monkeypatch.setattr(run, "run_cell", refuse)


def refused(
    capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path], data: Path, tmp_path: Path, *extra: str
) -> str:
    """Run, expect exit 2 and exactly one line on stderr, which is returned."""
    llm, vision = map(str, folders)
    command = ["run", "--methods", "memvp", "--task", "scienceqa", "--llm", llm, "--vision", vision, "--steps", "1"]
    command += ["--device", "cpu", "--set", "memvp.slots=16", "--data-root", str(data)]
    command += [] if "--results" in extra else ["--results", str(tmp_path / "results")]
    assert cli.main([*command, *extra]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("vltune: error: ")
    assert not list(tmp_path.rglob("results/runs/**/*.json"))
    return lines[0]


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def first_test(root: Path, *, image: bool = False) -> str:
    problems = json.loads((root / "problems.json").read_text())
    return next(
        p for p in json.loads((root / "pid_splits.json").read_text())["test"] if problems[p]["image"] or not image
    )


def picture(root: Path) -> Path:
    return root / "images" / "test" / first_test(root, image=True) / "image.png"


def drop_problems(root: Path) -> None:
    (root / "problems.json").unlink()


def truncate_problems(root: Path) -> None:
    path = root / "problems.json"
    path.write_text(path.read_text()[:500])


def out_of_range(root: Path) -> None:
    edit(root / "problems.json", lambda p: p[first_test(root)].update(answer=9))


def no_choices(root: Path) -> None:
    edit(root / "problems.json", lambda p: p[first_test(root)].update(choices=[]))


def no_picture(root: Path) -> None:
    picture(root).unlink()


def corrupt_picture(root: Path) -> None:
    picture(root).write_bytes(picture(root).read_bytes()[:60])


def empty_split(root: Path) -> None:
    edit(root / "pid_splits.json", lambda s: s.update(test=[]))


def long_question(root: Path) -> None:
    edit(root / "problems.json", lambda p: p[first_test(root)].update(question="why " * 200))


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (drop_problems, ["problems.json"]),
        (truncate_problems, ["problems.json", "line", "column"]),
        (out_of_range, ["problems.json", "answer", "9"]),
        (no_choices, ["problems.json", "choices"]),
        (no_picture, ["image.png"]),
        (corrupt_picture, ["image.png"]),
        (empty_split, ["pid_splits.json", "test"]),
        (long_question, ["do not fit", "longest", "--set scienceqa.overlong=cut"]),
    ],
)
def test_bad_data_is_refused_before_any_training(
    spoil: Spoil,
    parts: list[str],
    folders: tuple[Path, Path],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(data)
    line = refused(capsys, folders, data, tmp_path)
    assert [part for part in parts if part not in line] == []


def test_no_data_folder(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere" in refused(capsys, folders, tmp_path / "nowhere", tmp_path)


def spoil_weights(folders: tuple[Path, Path]) -> None:
    path = folders[1] / "model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    save_file({**tensors, name: tensors[name] * float("nan")}, path, metadata={"format": "pt"})


def drop_config(folders: tuple[Path, Path]) -> None:
    (folders[0] / "config.json").unlink()


def drop_tokenizer(folders: tuple[Path, Path]) -> None:
    for path in folders[0].glob("tokenizer*"):
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [(spoil_weights, ["clip", "NaN"]), (drop_config, ["llm", "config.json"]), (drop_tokenizer, ["llm", "tokenizer"])],
)
def test_bad_backbones_are_refused_before_any_training(
    spoil: Callable[[tuple[Path, Path]], None],
    parts: list[str],
    folders: tuple[Path, Path],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(folders)
    line = refused(capsys, folders, data, tmp_path)
    assert [part for part in parts if part not in line] == []


def test_results_that_cannot_be_written(
    folders: tuple[Path, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a file").write_text("")
    line = refused(capsys, folders, data, tmp_path, "--results", str(tmp_path / "a file"))
    assert "a file" in line
    assert "--results" in line


@pytest.mark.parametrize("flag", ["--train-limit", "--eval-limit", "--batch-size"])
@pytest.mark.parametrize("value", ["0", "-3"])
def test_limits_must_be_positive(
    flag: str,
    value: str,
    folders: tuple[Path, Path],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = refused(capsys, folders, data, tmp_path, flag, value)
    assert flag in line
    assert value in line


def test_long_prompts_are_cut_and_counted_when_asked(
    folders: tuple[Path, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_question(data)
    seen: list[Any] = []
    monkeypatch.setattr(
        run, "run_cell", lambda bench, choices, cell, ready, number: (cell, seen.append(ready.overlong) or "ok")
    )
    llm, vision = map(str, folders)
    command = ["run", "--methods", "memvp", "--task", "scienceqa", "--llm", llm, "--vision", vision, "--steps", "1"]
    command += ["--device", "cpu", "--set", "memvp.slots=16", "--data-root", str(data)]
    command += ["--results", str(tmp_path / "results"), "--set", "scienceqa.overlong=cut"]
    assert cli.main(command) == 0
    assert (seen[0].train, seen[0].evaluation) == (0, 1)
