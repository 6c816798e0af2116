"""The check of a results folder: what is whole is clean, and each kind of damage is one line at the right file."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.record import METERS, Cell, MetricValue, NamedFile, Record, cell_key, unavailable
from harness.results_check import Problem, check, count, report
from harness.store import Store

ROOT = Path(__file__).parents[2]
ROWS = [{"id": str(index), "output": "ü"} for index in range(3)]
RESTORE = "restore it from a copy, or delete the record with its files and run the cell again"


def make(number: int = 0, **changes: Any) -> Record:
    """A record whose run id is made as real ones are; `number` makes cell and run id differ."""
    options = {"data": {"sha256": "0", "train": 9, "eval": len(ROWS)}}
    cell = {"method": "memvp", "task": "scienceqa", "backbone": "mini", "seed": number, "options": options}
    made = Cell(**{**cell, **changes})  # type: ignore[arg-type]
    return Record(
        run_id=f"20260102T{number:09d}Z-{cell_key(made)[:8]}-0f0f0f",
        status="ok",
        cell=made,
        metrics={"accuracy": MetricValue(value=50.0, unit="%", goal="max", n=3)},
        meters={name: unavailable("no sensor") for name in METERS},
    )


def lines(root: Path) -> list[str]:
    """The problems as text, without the folder in front."""
    return [str(problem).replace(f"{root}{os.sep}", "") for problem in check(root)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def path(root: Path) -> Path:
    """One record with predictions, among others that are whole."""
    store = Store(root)
    for number in (1, 2):
        store.append(make(number), ROWS)
    store.append(make(3, method="lora"), None)
    return store.append(make(), ROWS)


def beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}.predictions.jsonl")


def where(path: Path) -> str:
    return f"runs/mini/scienceqa/memvp/{path.name}"


@pytest.mark.parametrize("name", ["reference", "tuned"])
def test_the_committed_records_are_clean(name: str) -> None:
    folder = ROOT / "results" / name
    problems = check(folder)
    assert problems == []
    assert count(folder) == len([*(folder / "runs").rglob("*.json")]) > 0
    assert report(folder, problems) == f"{folder}: {count(folder)} records, no problem"


def test_what_the_store_wrote_is_clean_and_other_files_are_left_alone(root: Path, path: Path) -> None:
    Store(root).append(make(4, backbone="/data/my models/llama.7b", task="ü" * 200), ROWS)
    path.with_name("._hidden.json").touch()
    path.with_name("notes.txt").touch()
    assert check(root) == []
    assert report(root, []) == f"{root}: 5 records, no problem"


def edit(path: Path, **changes: Any) -> None:
    """Change a record as if it were older than the seal."""
    data = json.loads(path.read_text(encoding="utf-8"))
    del data["sha256"]
    data.update(changes)
    path.write_text(json.dumps(data), encoding="utf-8")


def test_records_that_cannot_be_read(root: Path, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for content, what in [
        ("", "the file is empty: no valid JSON at line 1 column 1: Expecting value"),
        (text[:100], "the file is cut off: no valid JSON at line "),
        (text.replace(",", ";", 1), "no valid JSON at line 2 column 14: Expecting ',' delimiter"),
        (text.replace('"ok"', '"fine"'), "status: Input should be 'ok', 'failed', 'skipped' or 'interrupted'"),
        ("[]", "record: Input should be an object"),
        ("[" * 100_000, "the file is cut off: no valid JSON: "),
    ]:
        path.write_text(content, encoding="utf-8")
        [line] = lines(root)  # the predictions are no orphans: their record is there, only damaged
        assert line.startswith(f"{where(path)}: {what}")
        assert line.endswith(f"; {RESTORE}")
        assert len(line) < 900
    path.write_bytes(b'{"schema": 1, "\xff": 0}')
    assert "no valid JSON: 'utf-8' codec can't decode" in lines(root)[0]


def test_a_newer_schema_names_both(root: Path, path: Path) -> None:
    edit(path, schema=7)
    assert lines(root) == [f"{where(path)}: schema 7 is newer than schema 1 of this vltune; update vltune"]


def test_a_score_that_was_edited_by_hand(root: Path, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"value": 50.0', '"value": 99.0'), encoding="utf-8")
    what = "edited since it was written: its sha256 is not that of its text"
    assert lines(root) == [f"{where(path)}: {what}; {RESTORE}"]


def test_damaged_samples(root: Path) -> None:
    path = Store(root).append(make(), ROWS, samples={"train_loss": [2.0, 1.0]})
    samples = path.with_name(f"{path.stem}.samples.jsonl")
    assert check(root) == []
    samples.write_bytes(samples.read_bytes().replace(b"2.0", b"0.5"))
    shown = where(path).replace(".json", ".samples.jsonl")
    assert lines(root) == [f"{shown}: the sha256 is not the one in the record; {RESTORE}"]
    samples.unlink()
    assert lines(root) == [f"{where(path)}: its samples {samples.name} are not there; {RESTORE}"]
    samples.touch()
    path.unlink()
    beside(path).unlink()
    assert lines(root)[0].startswith(f"{shown}: samples of no record; delete it")


def test_an_edited_cell_of_a_record_older_than_the_seal(root: Path, path: Path) -> None:
    edit(path, cell=json.loads(path.read_text(encoding="utf-8"))["cell"] | {"seed": 9})
    [line] = lines(root)
    key = cell_key(make(9).cell)[:8]
    assert (
        line == f"{where(path)}: the cell was edited: its key is {key}, the run id says {path.stem[20:28]}; {RESTORE}"
    )


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda data: data[:-5], "the last line is cut off, the sha256 is not the one in the record"),
        (lambda data: data.replace(b"1", b"7"), "the sha256 is not the one in the record"),
        (lambda data: data * 2, "6 lines for 3 examples, the sha256 is not the one in the record"),
        (lambda data: b"", "0 lines for 3 examples, the sha256 is not the one in the record"),
    ],
    ids=["cut off", "edited", "doubled", "empty"],
)
def test_damaged_predictions(root: Path, path: Path, damage: Any, what: str) -> None:
    beside(path).write_bytes(damage(beside(path).read_bytes()))
    assert lines(root) == [f"{where(beside(path))}: {what}; {RESTORE}"]


def test_lines_and_examples_disagree_under_a_right_hash(root: Path) -> None:
    path = Store(root).append(make(), ROWS[:2])
    assert lines(root) == [f"{where(beside(path))}: 2 lines for 3 examples; {RESTORE}"]


def test_a_record_that_does_not_say_how_many_examples(root: Path) -> None:
    for number, options in enumerate(({}, {"data": None}, {"data": {"eval": "many"}})):
        Store(root).append(make(number, options=options), ROWS)
    assert check(root) == []


def test_missing_predictions(root: Path, path: Path) -> None:
    beside(path).unlink()
    assert lines(root) == [f"{where(path)}: its predictions {beside(path).name} are not there; {RESTORE}"]
    edit(path, predictions={"file": "x" * 5000, "sha256": "0" * 64})
    assert lines(root)[0].startswith(f"{where(path)}: its predictions xxx")


def test_orphaned_predictions(root: Path, path: Path) -> None:
    path.unlink()
    [line] = lines(root)
    assert line.startswith(f"{where(beside(path))}: predictions of no record; delete it, unless a run is still writing")


def test_leftovers(root: Path, path: Path) -> None:
    left = [
        path.with_name(f".{path.name}.0a1b2c3d.tmp"),
        path.with_name(f".{path.name}.claim"),
        root / "adapters/mini/scienceqa/memvp" / f".{path.stem}.0a1b2c3d.tmp/adapter.safetensors",
    ]
    for file in left:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    fix = "left behind by a writer that was killed; delete it, unless a run is writing to this folder now"
    expected = sorted([left[0], left[1], left[2].parent])
    assert lines(root) == [f"{file.relative_to(root)}: {fix}" for file in expected]


def test_a_record_under_another_name(root: Path, path: Path) -> None:
    path.rename(path.with_name("best.json"))
    what = f"holds run id {path.stem}, which is not its name; rename it to {path.name}"
    assert lines(root) == [f"runs/mini/scienceqa/memvp/best.json: {what}"]


def test_a_record_in_another_folder(root: Path, path: Path) -> None:
    folder = root / "runs/smol/scienceqa/memvp"
    folder.mkdir(parents=True)
    for file in (path, beside(path)):
        file.rename(folder / file.name)
    what = f"holds a run of memvp on scienceqa with mini; move it with its predictions to {path.parent}"
    assert lines(root) == [f"runs/smol/scienceqa/memvp/{path.name}: {what}".replace(f"{root}{os.sep}", "")]


def test_two_records_with_one_id(root: Path, path: Path) -> None:
    copy = path.with_name("copy.json")
    copy.write_bytes(path.read_bytes())
    what = f"holds run id {path.stem}, as does {where(path)}; keep one of the two as {where(path)}"
    assert lines(root) == [f"runs/mini/scienceqa/memvp/copy.json: {what}"]
    copy.unlink()
    other = make(5, method="lora").model_copy(update={"run_id": path.stem})
    Store(root).append(other, None)
    found = lines(root)
    assert any(
        f": holds run id {path.stem}, as does runs/mini/scienceqa/lora/{path.name}; keep one" in x for x in found
    )


def test_two_records_with_one_id_both_misplaced(root: Path, path: Path) -> None:
    copies = [path.with_name(f"{name}.json") for name in "ab"]
    for copy in copies:
        copy.write_bytes(path.read_bytes())
    path.unlink()
    first, second = lines(root)
    assert first.startswith(f"runs/mini/scienceqa/memvp/a.json: holds run id {path.stem}, which is not its name")
    assert second.startswith(f"runs/mini/scienceqa/memvp/b.json: holds run id {path.stem}, as does")


def test_folders_without_results(tmp_path: Path) -> None:
    for root in (tmp_path / "nowhere", tmp_path):
        [problem] = check(root)
        assert problem.path == root / "runs"
        assert problem.fix == "name the folder that holds runs/; 'vltune run' makes it"
        assert report(root, [problem]).endswith(f"{root}: 0 records, 1 problem")
    (tmp_path / "runs").mkdir()
    assert check(tmp_path) == []


def test_files_that_are_no_files_are_not_opened(root: Path, path: Path) -> None:
    os.mkfifo(path.with_name("pipe.json"))
    path.with_name("dangling.json").symlink_to("nowhere")
    beside(path).unlink()
    os.mkfifo(beside(path))
    found = lines(root)
    assert len(found) == 3
    assert sum("no file that can be read" in line for line in found) == 2
    assert sum("are not there" in line for line in found) == 1


def test_hostile_names_stay_on_one_line(root: Path, path: Path) -> None:
    path.with_name("a\nb\x1b[31m\u202e.json").write_text('{"schema": 1, "\\n\\u001b[2J": 1}')
    path.with_name("\udce4.jsonl").touch()
    found = lines(root)
    assert len(found) == 2
    assert all(line.isprintable() for line in found)
    assert found[0].startswith("runs/mini/scienceqa/memvp/a\\nb\\x1b[31m\\u202e.json: ")
    assert all(line.isprintable() for line in report(root, check(root)).split("\n"))


def test_records_without_a_seal_are_counted(root: Path, path: Path) -> None:
    assert report(root, check(root)).endswith(f"{root}: 4 records, no problem")
    edit(path, metrics={"accuracy": {"value": 99.0, "unit": "%", "goal": "max", "n": 3}})
    said = "4 records (1 without a seal, so that edits do not show), no problem"
    assert report(root, check(root)).endswith(said)


def test_nothing_is_changed(root: Path, path: Path) -> None:
    path.write_text("")
    before = {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}
    check(root)
    assert {file: file.read_bytes() for file in root.rglob("*") if file.is_file()} == before


def test_as_text() -> None:
    assert str(Problem(Path("a\tb"), "x\ny" * 1000, "fix")) == "a\\tb: " + ("x\\ny" * 1000)[:500] + "; fix"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 records of 20 cells' folders, with predictions; written without waiting for the disk as the store does."""
    root = tmp_path_factory.mktemp("many")
    store = Store(root)
    rows = b"".join(b'{"id": "%d"}\n' % index for index in range(len(ROWS)))
    for number in range(2000):
        record = make(number, method=f"method{number % 5}", task=f"task{number % 4}")
        named = NamedFile(file=f"{record.run_id}.predictions.jsonl", sha256=hashlib.sha256(rows).hexdigest())
        folder = store.folder(record)
        folder.mkdir(parents=True, exist_ok=True)
        text = record.model_copy(update={"predictions": named}).to_json()
        (folder / f"{record.run_id}.json").write_text(text, encoding="utf-8")
        (folder / named.file).write_bytes(rows)
    return root


def test_many_records_are_all_checked(many: Path) -> None:
    assert count(many) == 2000
    assert check(many) == []
    expected = {}
    records = sorted((many / "runs").rglob("*.json"))
    for index, path in enumerate(records[::100]):
        kind = index % 4
        if kind == 0:
            expected[path] = "cut off"
            path.write_bytes(path.read_bytes()[:-200])
        elif kind == 1:
            expected[beside(path)] = "sha256"
            beside(path).write_bytes(beside(path).read_bytes().replace(b"0", b"9"))
        elif kind == 2:
            expected[path] = "newer than schema 1"
            edit(path, schema=2)
        else:
            expected[beside(path)] = "no record"
            path.unlink()
    problems = check(many)
    assert [problem.path for problem in problems] == sorted(expected)
    assert all(expected[problem.path] in problem.what for problem in problems)
    assert report(many, problems).endswith("1,995 records, 20 problems")


def test_it_needs_no_torch() -> None:
    code = "import sys; from harness import results_check; assert not {'torch', 'pandas', 'scipy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
