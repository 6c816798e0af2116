"""`compare`: of what a run wrote, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import cli
from harness.store import Store
from tasks.mini import scienceqa as mini_scienceqa

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def results(tiny_folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, one of them with two settings, on 60 questions; and one on half of these."""
    folder = tmp_path_factory.mktemp("to compare")
    mini_scienceqa.write(folder / "data", train=8, val=2, test=60)
    llm, vision = map(str, tiny_folders)
    where = ["--llm", llm, "--vision", vision, "--data-root", str(folder / "data"), "--results", str(folder)]
    common = ["--task", "scienceqa", "--device", "cpu", "--steps", "1", "--batch-size", "4", *where]
    for extra in (
        ["--methods", "frozen,lora"],
        ["--methods", "memvp", "--set", "memvp.slots=16"],
        ["--methods", "memvp", "--set", "memvp.slots=20"],
        ["--methods", "llava", "--eval-limit", "30"],
    ):
        assert cli.main(["run", *common, *extra]) == 0
    return folder


def compare(results: Path, a: str, b: str) -> int:
    return cli.main(["compare", a, b, "--results", str(results)])


def test_two_methods_are_tested_and_their_options_told_apart(results: Path, capsys: Captured) -> None:
    assert compare(results, "lora", "frozen") == 0
    text = capsys.readouterr().out
    assert "lora against frozen" in text
    assert "(exact McNemar test, seed 0: 60 pairs of answers on 60 questions or pictures)" in text
    assert "percentage points, 95 % bootstrap interval [" in text
    assert "- method.rank: " in text
    assert " against no such option" in text
    assert "- lora does better on" in text


def test_runs_are_named_by_their_ids(results: Path, capsys: Captured) -> None:
    ids = [record.run_id for record in Store(results).read() if record.cell.method == "memvp"]
    assert compare(results, *ids) == 0
    assert "- method.slots: 16 against 20" in capsys.readouterr().out


def test_rows_are_named_as_tables_have_them(results: Path, capsys: Captured) -> None:
    assert compare(results, "memvp (slots=16)", "memvp (slots=20)") == 0
    text = capsys.readouterr().out
    assert "memvp (slots=16) against memvp (slots=20)" in text
    assert "- method.slots: 16 against 20" in text


def test_the_beginning_of_a_run_id_will_do(results: Path, capsys: Captured) -> None:
    ids = [record.run_id for record in Store(results).read() if record.cell.method == "memvp"]
    assert compare(results, *(id[:-3] for id in ids)) == 0
    assert all(id in capsys.readouterr().out for id in ids[:1])


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("lora", "loar", "no finished run or method 'loar' here; did you mean 'lora'?"),
        ("memvp", "lora", "memvp was run with 2 settings; name a row or a run instead: 'memvp (slots=16)' (20"),
        ("llava", "lora", "llava and lora have no comparable runs"),
    ],
)
def test_what_cannot_be_compared_is_one_line(a: str, b: str, message: str, results: Path, capsys: Captured) -> None:
    assert compare(results, a, b) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_runs_on_other_examples_are_refused(results: Path, capsys: Captured) -> None:
    ids = {record.cell.method: record.run_id for record in Store(results).read()}
    assert compare(results, ids["llava"], ids["lora"]) == 2
    assert "differ in 30 examples" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, capsys: Captured) -> None:
    assert compare(tmp_path / "none", "a", "b") == 2
    assert "no such folder" in capsys.readouterr().err


def test_one_task_of_several_can_be_named(results: Path, capsys: Captured) -> None:
    where = ["compare", "lora", "frozen", "--results", str(results), "--task"]
    assert cli.main([*where, "scienceqa"]) == 0
    assert "lora against frozen" in capsys.readouterr().out
    assert cli.main([*where, "retrieval"]) == 2
    assert "no finished run or method" in capsys.readouterr().err
    assert cli.main([*where, "retrieva"]) == 2
    assert "did you mean 'retrieval'" in capsys.readouterr().err


def test_few_questions_are_compared_without_an_interval(results: Path, capsys: Captured) -> None:
    ids = {record.cell.method: record.run_id for record in Store(results).read()}
    assert compare(results, ids["llava"], ids["llava"]) == 0
    assert "difference +0.00 percentage points, p = 1.000 (exact McNemar test, seed 0: 30" in capsys.readouterr().out


def only(results: Path, part: str, data: Path, *more: str) -> int:
    where = ["--results", str(results), "--data-root", str(data)]
    return cli.main(["compare", "lora", "frozen", "--only", part, *where, *more])


def test_a_part_of_the_examples_alone(results: Path, capsys: Captured) -> None:
    problems = json.loads((results / "data" / "problems.json").read_text(encoding="utf-8"))
    splits = json.loads((results / "data" / "pid_splits.json").read_text(encoding="utf-8"))
    pictured = [id for id in splits["test"] if problems[id]["image"]]
    assert 0 < len(pictured) < 60
    assert only(results, "img", results / "data") == 0
    text = capsys.readouterr().out
    assert "· only img: lora against frozen" in text
    assert f"{len(pictured)} pairs of answers on {len(pictured)} questions or pictures" in text
    answers = {
        record.cell.method: {row["id"]: row["score"] for row in Store(results).rows(record, record.predictions)}
        for record in Store(results).read()
        if record.cell.method in ("lora", "frozen") and record.predictions
    }
    by = sum(answers["lora"][id] - answers["frozen"][id] for id in pictured) / len(pictured)
    assert f"accuracy: difference {by:+.2f} percentage points" in text


@pytest.mark.parametrize(
    ("part", "data", "message"),
    [
        ("imgs", "data", "--only imgs: no such part of scienceqa; did you mean 'img'?"),
        ("img", "other data", "not the data of run"),
        ("img", "no data", "problems.json"),
        ("img", "nowhere", "nowhere: no such folder; name the folder"),
    ],
)
def test_a_part_that_cannot_be_told_is_one_line(
    part: str, data: str, message: str, results: Path, capsys: Captured
) -> None:
    mini_scienceqa.write(results / "other data", seed=1, train=8, val=2, test=60)
    (results / "no data").mkdir(exist_ok=True)
    assert only(results, part, results / data) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_part_needs_the_data(results: Path, capsys: Captured) -> None:
    assert cli.main(["compare", "lora", "frozen", "--only", "img", "--results", str(results)]) == 2
    assert "--only PART and --data-root DIR, the data that the runs used, need each other" in capsys.readouterr().err
