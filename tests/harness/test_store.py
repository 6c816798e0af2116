"""The store: whole files or none, written once, found again."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.record import METERS, Cell, MetricValue, Record, RecordError, new_run_id, unavailable
from harness.store import Store, StoreError, folder_name

STARTS = [f"20260102T03040{second}000Z-ab12cd34-0f0f0f" for second in range(10)]


def make(run_id: str = STARTS[0], *, status: str = "ok", **cell: Any) -> Record:
    fields: dict[str, Any] = {"method": "memvp", "task": "scienceqa", "backbone": "mini", "seed": 0, "options": {}}
    done = status == "ok"
    return Record(
        run_id=run_id,
        status=status,  # type: ignore[arg-type]
        reason=None if done else "because",
        cell=Cell(**{**fields, **cell}),
        metrics={"accuracy": MetricValue(value=50.0, unit="%", goal="max", n=10)} if done else {},
        meters={name: unavailable("no sensor") for name in METERS},
    )


def test_a_record_and_its_predictions_come_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "new results")
    path = store.append(make(), [{"id": "2", "output": "B"}, {"output": "é", "id": "1"}])
    assert path == tmp_path / "new results/runs/mini/scienceqa/memvp" / f"{STARTS[0]}.json"
    [record] = Store(tmp_path / "new results").read()
    assert record.predictions is not None
    beside = path.with_name(record.predictions.file)
    assert beside.name == f"{STARTS[0]}.predictions.jsonl"
    assert beside.read_text(encoding="utf-8") == '{"id": "2", "output": "B"}\n{"id": "1", "output": "é"}\n'
    assert record.predictions.sha256 == hashlib.sha256(beside.read_bytes()).hexdigest()
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, beside.name]


def test_the_same_predictions_give_equal_bytes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = [{"id": str(index), "choice": index % 4} for index in range(20)]
    store.append(make(STARTS[0]), rows)
    store.append(make(STARTS[1]), (dict(reversed(row.items())) for row in rows))
    first, second = store.read()
    assert first.predictions is not None
    assert second.predictions is not None
    assert first.predictions.sha256 == second.predictions.sha256


@pytest.fixture(params=[True, False], ids=["hard links", "no hard links"])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system with and one without hard links."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not request.param:
        monkeypatch.setattr(os, "link", refuse)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.usefixtures("links")
@pytest.mark.parametrize("predictions", [None, [{"id": "1"}]])
def test_a_record_is_never_overwritten(tmp_path: Path, predictions: list[dict[str, Any]] | None) -> None:
    store = Store(tmp_path)
    path = store.append(make(), predictions)
    before = contents(path.parent)
    assert len(before) == (2 if predictions else 1)
    with pytest.raises(StoreError, match=rf"run id {STARTS[0]} is taken"):
        store.append(make(status="failed"), [{"id": "other"}])
    assert contents(path.parent) == before


@pytest.mark.usefixtures("links")
def test_a_writer_that_lost_the_race_overwrites_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    path = store.append(make(), None)
    before = contents(path.parent)
    # The rival's file appears after the first look and before the write.
    real, looks = Path.exists, iter([False])
    monkeypatch.setattr(Path, "exists", lambda self: next(looks, None) is None and real(self))
    with pytest.raises(StoreError, match="is taken"):
        store.append(make(status="failed"), None)
    assert contents(path.parent) == before


def test_leftovers_of_killed_writers_are_ignored(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.append(make(), None)
    (path.parent / f".{STARTS[1]}.json.0a0a0a0a.tmp").write_text('{"schema": 1, "run')
    (path.parent / f".{STARTS[1]}.json").write_text("")
    (path.parent / f"{STARTS[1]}.predictions.jsonl").write_text('{"id": "1"}\n')
    assert [record.run_id for record in Store(tmp_path).read()] == [STARTS[0]]


def _write_many(root: str, writer: int) -> None:
    store = Store(Path(root))
    for index in range(5):
        store.append(make(f"2026-{writer}-{index}", seed=writer), [{"id": str(index)}])
    try:
        store.append(make("2026-contested"), [{"writer": writer}])
    except StoreError:
        return
    (Path(root) / f"winner-{writer}").touch()


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(str(tmp_path), writer)) for writer in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    found = Store(tmp_path).read()
    assert len(found) == 16
    [winner] = tmp_path.glob("winner-*")
    contested = next(tmp_path.rglob("2026-contested.predictions.jsonl"))
    assert json.loads(contested.read_text()) == {"writer": int(winner.name[-1])}


def test_a_folder_that_cannot_be_written_is_found_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file in the way")
    for root in (tmp_path / "results", tmp_path / "results/below", Path("/proc/vltune")):
        with pytest.raises(StoreError, match=r"cannot be written \(.+\): choose another with --results DIR") as caught:
            Store(root).check_writable()
        assert str(root) in str(caught.value)
        with pytest.raises(StoreError, match="cannot be written"):
            Store(root).append(make(), None)


def test_checking_leaves_nothing_but_the_folder(tmp_path: Path) -> None:
    Store(tmp_path / "new/results").check_writable()
    assert [path.name for path in (tmp_path / "new/results").rglob("*")] == ["runs"]


def test_predictions_that_are_no_json_write_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for bad in (float("nan"), Path("x"), "\udce4"):
        with pytest.raises(ValueError, match="prediction 1 cannot be written as JSON"):
            store.append(make(), [{"id": "0"}, {"id": bad}])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_predictions_named_by_hand_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append(make(), [{"id": "0"}])
    with pytest.raises(ValueError, match="filled by the store"):
        store.append(store.read()[0], None)


def test_records_are_read_by_start_whatever_their_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for position, name in [(3, "zz"), (1, "mm"), (2, "aa")]:
        store.append(make(STARTS[position], method=name), None)
    assert [record.run_id for record in store.read()] == STARTS[1:4]
    assert Store(tmp_path / "nowhere").read() == []


def test_a_malformed_record_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.append(make(), None)
    path.write_text(path.read_text()[:100])
    with pytest.raises(RecordError, match=rf"{STARTS[0]}\.json: no valid JSON at line"):
        Store(tmp_path).read()


def test_two_records_with_one_id_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one = store.append(make(STARTS[0]), [{"id": "1"}])
    other = store.append(make(STARTS[0], method="lora"), [{"id": "2"}])
    with pytest.raises(RecordError, match=f"both hold run id {STARTS[0]}; 'vltune results check") as caught:
        Store(tmp_path).read()
    assert str(one) in str(caught.value)
    assert str(other) in str(caught.value)
    other.unlink()
    assert [record.cell.method for record in Store(tmp_path).read()] == ["memvp"]
    one.with_name("copy.json").write_bytes(one.read_bytes())
    with pytest.raises(RecordError, match="both hold run id"):
        Store(tmp_path).find(make().cell)


def test_find_gives_the_latest_run_that_settled_the_cell(tmp_path: Path) -> None:
    store = Store(tmp_path)
    cell = make().cell
    assert store.find(cell) is None
    store.append(make(STARTS[0], status="interrupted"), None)
    store.append(make(STARTS[1], status="failed"), None)
    assert store.find(cell) is None
    store.append(make(STARTS[2]), None)
    store.append(make(STARTS[3], seed=1), None)
    store.append(make(STARTS[4], status="failed"), None)
    found = store.find(cell)
    assert found is not None
    assert found.run_id == STARTS[2]
    store.append(make(STARTS[5], status="skipped"), None)
    found = store.find(cell)
    assert found is not None
    assert found.run_id == STARTS[5]


def test_an_interruption_before_the_record_leaves_nothing(tmp_path: Path) -> None:
    class Interrupted(dict[str, list[float]]):
        def get(self, *_: object) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).append(make(), [{"id": "1"}], samples=Interrupted())
    assert list(tmp_path.rglob("*.*")) == []


def test_what_killed_writers_of_a_cell_left_behind_is_swept_away_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ours, other = make().cell, make(seed=1).cell
    now = datetime.now(UTC)
    kept = [store.append(make(new_run_id(cell, now), seed=cell.seed), [{"id": "1"}]) for cell in (ours, other)]
    folder = kept[0].parent
    whole = set(folder.iterdir())
    lost, running = new_run_id(ours, now), new_run_id(other, now)
    left = [f"{lost}.predictions.jsonl", f"{lost}.samples.jsonl", f".{lost}.json.0123abcd.tmp", f".{lost}.json.claim"]
    left += [f".{kept[0].name}.0123abcd.tmp"]
    spared = [f"{running}.predictions.jsonl", f".{running}.json.0123abcd.tmp", "notes.txt"]
    for name in (*left, *spared):
        (folder / name).touch()
    store.sweep(ours)
    assert set(folder.iterdir()) == whole | {folder / name for name in spared}
    Store(tmp_path / "nowhere").sweep(ours)


def test_failures_are_found_by_their_end(tmp_path: Path) -> None:
    store, then = Store(tmp_path), datetime(2026, 1, 2, tzinfo=UTC)
    for number, (seed, status) in enumerate([(0, "failed"), (1, "failed"), (0, "ok")]):
        record = make(STARTS[number], seed=seed, status=status)
        ended = (then + timedelta(seconds=number)).isoformat(timespec="milliseconds")
        store.append(record.model_copy(update={"provenance": {"ended": ended}}), None)
    store.append(make(STARTS[9], status="failed"), None)  # does not say when
    found = store.failed_since(make().cell, then)
    assert found is not None
    assert found.run_id == STARTS[0]
    assert store.failed_since(make().cell, then + timedelta(milliseconds=1)) is None


def test_find_reads_the_records_of_no_other_method(tmp_path: Path) -> None:
    store = Store(tmp_path)
    wanted = store.append(make(STARTS[0]), None)
    store.append(make(STARTS[1], method="other"), None).write_text("no record")
    found = Store(tmp_path).find(make().cell)
    assert found is not None
    assert found.run_id == wanted.stem


@pytest.mark.parametrize("name", ["/data/my models/llama 7b", "..", ".", "модель", "a|b<c>:d\n", "x" * 400, "ü" * 300])
def test_any_backbone_name_is_one_folder(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "größe und mehr")
    path = store.append(make(backbone=name), [{"id": "1"}])
    assert path.relative_to(store.root / "runs").parts[1:3] == ("scienceqa", "memvp")
    [record] = store.read()
    assert record.cell.backbone == name


def test_a_backbone_may_be_called_as_a_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append(make(backbone="llama.json"), [])
    assert [record.cell.backbone for record in Store(tmp_path).read()] == ["llama.json"]


def test_folder_names_differ_where_names_do() -> None:
    names = ["a/b", "a%2Fb", "a b", "a_b", ".a", "%2Ea", "x" * 400, "x" * 401]
    assert len({folder_name(name) for name in names}) == len(names)
    assert folder_name("llama-7b") == "llama-7b"
