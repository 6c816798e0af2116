"""What a node sends: it comes in whole and as it was, or not at all, and into no folder but the cell's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cluster import parcel
from harness.cluster.parcel import Arrivals, ParcelError, Piece
from harness.record import METERS, Cell, MetricValue, Record, unavailable
from harness.results_check import check
from harness.store import Store, StoreError
from tests.full_disk import files_up_to

CELL = Cell(method="lora", task="scienceqa", backbone="a/b ü", seed=0, options={})
LOSSES = {"train_loss": [1.5, 0.1 + 0.2]}
ROWS = [{"id": "1", "answer": "a\u2028b"}, {"id": "2", "answer": "ü"}]


def make(run_id: str = "run-1", cell: Cell = CELL) -> Record:
    score = MetricValue(value=50.0, unit="%", goal="max", n=2)
    return Record(
        run_id=run_id,
        status="ok",
        cell=cell,
        metrics={"accuracy": score},
        meters={name: unavailable("a test") for name in METERS},
    )


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """The results folder of a node with one finished cell."""
    folder = tmp_path / "node"
    Store(folder).append(make(), ROWS, samples=LOSSES)
    saved = folder / "adapters/a%2Fb%20%C3%BC/scienceqa/lora/run-1/adapter.safetensors"
    saved.parent.mkdir(parents=True)
    saved.write_bytes(bytes(range(256)) * 10)
    (saved.parent / "empty").touch()
    kept = folder / "unfinished/x/y/z/state"
    kept.parent.mkdir(parents=True)
    kept.touch()
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_full_disk_is_told_with_the_way_out(results: Path) -> None:
    told = pytest.raises(StoreError, match=r"results folder .* cannot be written \(File too large\): choose another")
    with Arrivals(results) as arrivals, files_up_to(100), told:
        arrivals.add(Piece("runs/a/b/c/x.json", b"x" * 1000))


def bring(node: Path, results: Path) -> Path:
    with Arrivals(results) as arrivals:
        for piece in parcel.pieces(node):
            arrivals.add(piece)
        return arrivals.deliver(arrivals.record(CELL), Store(results))


def test_every_file_arrives_as_it_was(node: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel, "PIECE_BYTES", 100)
    assert all(len(piece.content) <= 100 for piece in parcel.pieces(node))
    path = bring(node, results)
    sent = {name: content for name, content in files(node).items() if not name.startswith("unfinished/")}
    assert files(results) == sent
    assert len(sent) == 5
    assert path == results / "runs/a%2Fb%20%C3%BC/scienceqa/lora/run-1.json"
    assert check(results) == []


def test_nothing_is_written_twice(node: Path, results: Path) -> None:
    bring(node, results)
    before = files(results)
    with pytest.raises(OSError, match="run id run-1 is taken"):
        bring(node, results)
    assert files(results) == before


@pytest.mark.parametrize(
    "path",
    [
        "runs/a/b/c/../../../../../etc/x.json",
        "/runs/a/b/c/x.json",
        "runs/a/b/x.json",
        "claims/a/b/c/1",
        "runs/a/b/c/x\\y.json",
        "runs/a/b/c/x\n.json",
        "runs/a/b/c:d/x.json",
        "",
    ],
)
def test_a_name_that_no_run_leaves_is_refused(path: str, results: Path) -> None:
    with Arrivals(results) as arrivals, pytest.raises(ParcelError, match="a node sent a file by the name"):
        arrivals.add(Piece(path, b""))
    assert files(results) == {}


def test_files_of_other_runs_do_not_enter(node: Path, results: Path) -> None:
    with Arrivals(results) as arrivals:
        for piece in (*parcel.pieces(node), Piece("adapters/other/scienceqa/lora/run-1/x", b"")):
            arrivals.add(piece)
        arrivals.deliver(arrivals.record(CELL), Store(results))
    assert not [name for name in files(results) if "other" in name]


def test_a_record_of_another_cell_is_refused(node: Path, results: Path) -> None:
    with Arrivals(results) as arrivals:
        for piece in parcel.pieces(node):
            arrivals.add(piece)
        with pytest.raises(ParcelError, match="of another cell"):
            arrivals.record(CELL.model_copy(update={"seed": 1}))


def test_no_record_or_two_are_refused(node: Path, results: Path) -> None:
    with Arrivals(results) as arrivals, pytest.raises(ParcelError, match="0 records came back"):
        arrivals.record(CELL)
    Store(node).append(make("run-2"), None)
    with pytest.raises(ParcelError, match="2 records came back"):
        bring(node, results)


@pytest.mark.parametrize("name", ["run-1.json", "run-1.predictions.jsonl", "run-1.samples.jsonl"])
@pytest.mark.parametrize("change", [lambda content: content[:-20], lambda content: content.replace(b"1", b"2")])
def test_what_was_damaged_on_the_way_is_refused(name: str, change: object, node: Path, results: Path) -> None:
    (path,) = node.rglob(name)
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ParcelError, match="damaged"):
        bring(node, results)
    assert files(results) == {}
