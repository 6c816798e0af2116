"""The command line: what its commands answer and write, how they end, and that answers come without torch."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import harness.backbones
import tasks
from harness import cli
from harness.store import Store
from tests.harness.test_mistakes import RUN, refused
from tests.records import make

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference"


def test_errors_of_the_program_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[str]:
        raise ValueError("a bug")

    monkeypatch.setattr(tasks, "names", fail)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["list", "tasks"])


def test_interrupted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(tasks, "names", stop)
    assert cli.main(["list", "tasks"]) == 130
    assert capsys.readouterr().err == "vltune: interrupted\n"


def test_sigterm_is_heeded_like_ctrl_c(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(tasks, "names", lambda: signal.raise_signal(signal.SIGTERM))
    assert cli.main(["list", "tasks"]) == 130
    assert capsys.readouterr().err == "vltune: interrupted\n"
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("error", "lacking"),
    [
        (MemoryError(), "more memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "more memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), "another 0 MiB"),
    ],
)
def test_memory_that_runs_out_before_any_cell_is_one_line(
    error: Exception, lacking: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> list[str]:
        raise error

    monkeypatch.setattr(tasks, "names", fail)
    assert cli.main(["list", "tasks"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"vltune: error: out of memory ({lacking}")
    assert err.endswith("could not be had); give more with --memory-gib, or free some\n")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("code", [0, 1, 130])
def test_run_hands_its_plan_over_and_returns_the_code(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr("harness.run.execute", lambda plan: seen.append(plan) or code)
    argv = (*RUN, "--results", str(tmp_path), "--fresh")
    assert cli.main(argv) == code
    assert (seen[0].argv, seen[0].fresh, seen[0].results) == (argv, True, tmp_path)


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "methods"]) == 0
    assert {"ademvl", "blind", "frozen", "memvp"} <= set(capsys.readouterr().out.split())
    assert cli.main(["list", "tasks"]) == 0
    assert "scienceqa" in capsys.readouterr().out.split()
    assert cli.main(["list", "backbones"]) == 0
    assert capsys.readouterr().out.split() == harness.backbones.names()


def test_params(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["params", "--methods", "ademvl,memvp", "--backbone", "llama-13b", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ademvl"]["trainable_params"] == 5_449_984
    assert found["memvp"]["trainable_params"] == 5_487_744


def test_leaderboard_of_an_empty_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["leaderboard", "--results", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert captured.out == "No runs to compare.\n"
    said = "holds no record; --results names the folder that holds runs/ (ours: results/reference)"
    assert captured.err == f"vltune: {tmp_path / 'runs'} {said}\n"
    out = tmp_path / "table.md"
    assert cli.main(["leaderboard", "--results", str(tmp_path), "--out", str(out)]) == 0
    assert out.read_text(encoding="utf-8") == "No runs to compare.\n"
    assert capsys.readouterr().out == ""


def test_the_report_is_one_page(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "a report.html"
    command = ["leaderboard", "--results", str(REFERENCE), "--format", "html", "--task", "scienceqa"]
    assert cli.main([*command, "--out", str(out)]) == 0
    page = out.read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert "scienceqa · smol" in page
    assert "retrieval · mini" not in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "html"], "--format html: a page to look at; name its file with --out FILE.html"),
        (["--format", "html", "--out", "x.html", "--sort", "cider"], "--sort: is chosen on the page"),
        (["--format", "html", "--out", "x.html", "--data-root", "/no/such"], "--data-root /no/such: no such folder"),
        (["--format", "csv", "--columns", "accuracy"], "--columns: csv holds every column; drop one of the two"),
        (["--columns", " , "], "argument --columns: names no column"),
        (["--out", "x.HTML"], "--out x.HTML: would hold md; add --format html or name another file"),
        (["--format", "csv", "--data-root", "."], "--data-root: the report of --format html shows examples; drop it"),
        (["--columns", "acuracy"], "--columns or --sort: no table has a column 'acuracy'; did you mean 'accuracy'?"),
    ],
)
def test_what_a_format_does_not_take_is_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["leaderboard", "--results", str(REFERENCE), "--task", "scienceqa", *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_doctor_finds_what_the_default_run_needs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["doctor", "--results", str(tmp_path)]) == 0
    found = capsys.readouterr().out
    assert "backbone mini" in found
    assert found.splitlines()[-1].endswith("has all it needs")


def test_results_check_finds_a_damaged_record(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    damaged = tmp_path / "runs" / "mini" / "scienceqa" / "lora" / "x.json"
    damaged.parent.mkdir(parents=True)
    assert cli.main(["results", "check", "--results", str(tmp_path)]) == 0
    damaged.write_text('{"schema": 1', encoding="utf-8")
    capsys.readouterr()
    assert cli.main(["results", "check", "--results", str(tmp_path)]) == 1
    assert str(damaged) in capsys.readouterr().out
    assert cli.main(["results", "check", "--results", str(tmp_path / "none")]) == 2


def test_published_tables_follow_ours(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["leaderboard", "--results", str(tmp_path), "--published", "--task", "coco_caption"]) == 0
    ours, _, papers = capsys.readouterr().out.partition("## Published figures")
    assert ours.startswith("No runs to compare.")
    assert "never ranked with ours" in papers
    assert "133.2" in papers  # ADEM-VL 13B, CIDEr
    assert "94.55" not in papers  # ScienceQA


@pytest.mark.parametrize("format", ["md", "html", "latex", "csv", "json"])
def test_published_figures_go_with_every_format(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, format: str
) -> None:
    out = tmp_path / "out"
    where = ["--results", str(tmp_path), "--task", "coco_caption", "--format", format, "--out", str(out)]
    assert cli.main(["leaderboard", *where]) == 0
    assert "133.2" not in out.read_text(encoding="utf-8").partition("<script")[0]
    assert cli.main(["leaderboard", *where, "--published"]) == 0
    text = out.read_text(encoding="utf-8").partition("<script")[0]
    assert "133.2" in text  # ADEM-VL 13B, CIDEr
    assert "94.55" not in text  # ScienceQA
    assert set(capsys.readouterr().err.splitlines()) == {
        f"vltune: {tmp_path / 'runs'} holds no record; --results names the folder that holds runs/ "
        "(ours: results/reference)"
    }


def test_tasks_that_only_papers_or_records_have_can_be_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    where = ["leaderboard", "--results", str(tmp_path), "--task"]
    assert cli.main([*where, "mme", "--published"]) == 0
    assert "mme · " not in (text := capsys.readouterr().out)
    assert "## Published figures" in text
    assert cli.main([*where, "mme"]) == 2
    assert "unknown task 'mme'" in capsys.readouterr().err
    Store(tmp_path).append(make(task="theirs"), None)
    assert cli.main([*where, "theirs"]) == 0
    assert "## theirs · mini" in capsys.readouterr().out
    assert cli.main(["compare", "memvp", "memvp", "--results", str(tmp_path), "--task", "theirs"]) == 2
    assert "has no score for each example" in capsys.readouterr().err
    assert cli.main([*where, "theirz"]) == 2
    assert "did you mean 'theirs'?" in capsys.readouterr().err


def test_mini_data_is_written_and_checked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "mini data"
    sizes = ("--train", "30", "--val", "10", "--test", "20")
    assert cli.main(["data", "mini", "--out", str(folder), *sizes]) == 0
    assert capsys.readouterr().out == f"{folder}\n"
    assert cli.main(["data", "check", "--task", "scienceqa", "--data-root", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["train: 30 examples", "val: 10 examples", "test: 20 examples"]
    assert "is not empty; name a new folder" in refused(("data", "mini", "--out", str(folder), *sizes), capsys)
    broken = folder / "problems.json"
    broken.write_text(broken.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    argv = ("data", "check", "--task", "scienceqa", "--data-root", str(folder))
    assert "problems.json" in refused(argv, capsys)


def test_mini_data_is_kept_in_the_cache(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path))
    for _ in range(2):
        assert cli.main(["data", "mini", "--train", "3", "--val", "2", "--test", "2"]) == 0
    first, second = capsys.readouterr().out.split()
    assert first == second
    assert Path(first).is_relative_to(tmp_path)


def test_pretraining_goes_where_it_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr("harness.backbones.mini.pretrain.pretrain", lambda out, *, seed: seen.append((out, seed)))
    assert cli.main(["backbone", "pretrain", "mini", "--out", str(tmp_path), "--seed", "3"]) == 0
    assert seen == [(tmp_path, 3)]
    assert capsys.readouterr().out == f"{tmp_path}\n"


@pytest.mark.parametrize("way", ["import", "export"])
def test_a_checkpoint_overwrites_nothing(way: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    line = refused(("checkpoint", way, "x.pth", "--format", "llama", "--out", str(tmp_path)), capsys)
    assert line == f"--out {tmp_path}: is not empty; name a new folder"


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["run", "--help"],
        ["checkpoint", "import", "--help"],
        ["list", "methods"],
        ["list", "tasks"],
        ["list", "backbones"],
    ],
)
def test_quick_answers_import_nothing_heavy(argv: list[str]) -> None:
    code = f"""
import sys
from harness import cli
try:
    cli.main({argv!r})
except SystemExit as stop:
    print("exit", stop.code)
print("heavy", sorted({{"torch", "transformers", "pandas", "pydantic", "numpy", "PIL"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    said = done.stdout.splitlines()
    assert len(said) > 1
    assert said[-1] == "heavy []"
    assert "--help" not in argv or said[-2] == "exit 0"


def test_exit_code_and_message_of_the_process() -> None:
    command = [sys.executable, "-m", "harness", "run", "--methods", "ademlv", "--task", "scienceqa"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "vltune: error: unknown method 'ademlv'; did you mean 'ademvl'?\n"


def test_a_reader_that_leaves_gets_no_traceback() -> None:
    command = f"{sys.executable} -m harness list methods | true"
    done = subprocess.run(
        ["bash", "-c", f"{command}; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() in ("0", "141")  # as the reader left early or late
    assert done.stderr == ""


def test_closed_output_ends_a_command_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as gone:
        command = [sys.executable, "-m", "harness", "list", "methods"]
        done = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")
