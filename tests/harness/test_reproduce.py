"""`reproduce`: a recorded cell run again, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import cli, plan, reproduce
from harness.cluster import options
from harness.settings import UsageError
from harness.store import Store
from tasks.mini import scienceqa as mini_scienceqa

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def results(tiny_folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods and two seeds from one command, with a setting for each method."""
    folder = tmp_path_factory.mktemp("recorded here")
    mini_scienceqa.write(folder / "data", train=8, val=2, test=12)
    llm, vision = map(str, tiny_folders)
    where = ["--llm", llm, "--vision", vision, "--data-root", str(folder / "data"), "--results", str(folder)]
    chosen = ["--methods", "memvp,lora", "--set", "memvp.slots=16", "--set", "lora.rank=2", "--seeds", "0,1"]
    options = ["--task", "scienceqa", "--device", "cpu", "--steps", "2", "--batch-size", "4"]
    assert cli.main(["run", *chosen, *options, *where]) == 0
    return folder


def run_id(results: Path, method: str, seed: int) -> str:
    [found] = [r.run_id for r in Store(results).read() if (r.cell.method, r.cell.seed) == (method, seed)]
    return found


def test_a_cell_comes_out_the_same(results: Path, tmp_path: Path, capsys: Captured) -> None:
    original = run_id(results, "lora", 1)
    assert cli.main(["reproduce", original[:-2], "--results", str(results), "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "Every score and every prediction is the same." in text
    assert "Code, machine and options are the same." in text
    [again] = Store(tmp_path).read()
    assert (again.cell.method, again.cell.seed, again.cell.options["method"]["rank"]) == ("lora", 1, 2)


def test_what_differs_is_reported(results: Path, tmp_path: Path, capsys: Captured) -> None:
    changed = tmp_path / "changed"
    original = run_id(results, "memvp", 0)
    [path] = results.rglob(f"{original}.json")
    data = json.loads(path.read_text(encoding="utf-8"))
    del data["sha256"]  # as of a record that is older than the seal
    data["metrics"]["accuracy"]["value"] += 1.0
    data["provenance"]["packages"]["torch"] = "1.0"
    target = changed / path.relative_to(results)
    target.parent.mkdir(parents=True)
    target.write_text(json.dumps(data), encoding="utf-8")
    assert cli.main(["reproduce", original, "--results", str(changed), "--out", str(tmp_path / "new")]) == 1
    text = capsys.readouterr().out
    assert "- packages.torch: 1.0 recorded, " in text
    assert "differs |" in text
    assert "Scores differ, though every prediction is the same: was the record edited?" in text


def test_the_run_that_was_made_is_compared_among_others(results: Path) -> None:
    records = Store(results).read()
    before = next(record for record in records if (record.cell.method, record.cell.seed) == ("lora", 0))
    again = before.model_copy(update={"run_id": "2100-again"})
    other = next(record for record in records if record.cell.method == "memvp")
    later = other.model_copy(update={"run_id": "2100-other"})
    known = {record.run_id for record in records}
    assert reproduce.outcome([*records, again, later], before, known) is again
    with pytest.raises(UsageError, match="was not run again"):
        reproduce.outcome([*records, later], before, known)


def test_a_whole_id_is_that_run_and_no_longer_one(results: Path) -> None:
    records = Store(results).read()
    longer = records[1].model_copy(update={"run_id": f"{records[0].run_id}-more"})
    assert reproduce.find([*records, longer], records[0].run_id) is records[0]


def test_the_report_of_hostile_options_stays_on_its_lines(results: Path) -> None:
    record = Store(results).read()[0]
    odd = record.cell.model_copy(update={"options": {**record.cell.options, "x\x1b[31m\n": "\x1b[2J\u202e\n"}})
    text = reproduce.report(record, record.model_copy(update={"cell": odd}))
    assert all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize(
    "there",
    [
        ["--executor", "ray", "--ray-address", "10.0.0.1:6379", "--cpus-per-cell", "2", "--shard", "2/2"],
        ["--parallel", "fsdp2"],
        ["--worker"],
    ],
)
def test_a_cell_of_a_cluster_is_run_here(there: list[str], results: Path, tmp_path: Path) -> None:
    record = Store(results).read()[-1]
    argv = [*record.provenance["argv"], *there]
    moved = record.model_copy(update={"provenance": record.provenance | {"argv": argv}})
    args = reproduce.arguments(moved, cli.parser().parse_args, results=tmp_path)
    assert options.options(args) is None
    planned = plan.build(args)
    [cell] = planned.cells
    assert not planned.worker
    assert (cell.method_name, cell.seed) == (record.cell.method, record.cell.seed)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [("x", "run 'x': no run of this results folder begins so"), ("20", "4 runs begin so; write more of it")],
)
def test_an_id_that_names_no_single_run_is_refused(
    wanted: str, message: str, results: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert cli.main(["reproduce", wanted, "--results", str(results), "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
