"""The table and the bars of the page: marks, sort keys, intervals and reasons."""

from __future__ import annotations

from harness.record import Record
from harness.report.bars import Chart, charts
from harness.report.colours import look_of, looks
from harness.report.grid import Cell, Grid, grid
from harness.tables.columns import heading
from harness.tables.rows import tables
from tests.harness.report.records import make


def shown(records: list[Record]) -> tuple[Grid, list[Chart]]:
    known, by_run = looks(record.cell.method for record in records), {record.run_id: record for record in records}
    [table] = tables(records)
    return grid(table, lambda row: look_of(row, by_run, known)), charts(table, lambda row: look_of(row, by_run, known))


def column(found: Grid, title: str) -> dict[str, Cell]:
    [index] = [index for index, each in enumerate(found.columns) if heading(each) == title]
    return {line.label: line.cells[index] for line in found.lines}


def test_the_best_is_marked_among_methods_and_baselines_do_not_compete() -> None:
    found, _ = shown(
        [make(1, method="a", score=40.0), make(2, method="b", score=50.0), make(3, method="full", score=99.0)]
    )
    assert {label: cell.best for label, cell in column(found, "Acc.").items()} == {
        "a": False,
        "b": True,
        "full": False,
    }
    assert not any(cell.best for cell in column(shown([make(1)])[0], "Acc.").values())


def test_cells_sort_by_the_full_number_and_say_why_they_are_empty() -> None:
    found, _ = shown([make(1, score=1234.5678)])
    cell = column(found, "Acc.")["memvp"]
    assert (cell.text, cell.sort) == ("1,234.57", "1234.5678")
    empty = column(found, "Prefill ms")["memvp"]
    assert (empty.text, empty.sort, empty.reason) == ("–", "", "not read")
    assert [(names.split(", ")[0], rows, reason) for names, rows, reason in found.missing] == [
        ("Saved MB", "memvp", "not read")
    ]


def test_runs_are_linked_by_seed_and_seeds_have_an_interval() -> None:
    found, _ = shown([make(number, seed=number, score=50.0 + number) for number in (1, 2, 3)])
    [line] = found.lines
    assert line.runs == [(1, "2026-00000001"), (2, "2026-00000002"), (3, "2026-00000003")]
    assert line.cells[0].interval == "[49.52, 54.48]"
    assert "t interval of the mean over seeds" in found.legend


def test_memory_on_a_cpu_and_times_on_other_machines_are_not_marked() -> None:
    cpu = {"device": "cpu"}
    found, _ = shown([make(1, method="a", params=1000, run=cpu), make(2, method="b", params=2000, run=cpu)])
    assert column(found, "Train step ms")["a"].best
    assert not column(found, "Train memory MB")["a"].best
    machines = [{"gpu": {"names": [name]}} for name in ("H200", "A100")]
    found, _ = shown([make(i, method="ab"[i], params=1000 + i, provenance=machines[i]) for i in (0, 1)])
    assert column(found, "Trainable M")["a"].best
    assert not column(found, "Train step ms")["a"].best


def test_bars_of_percentages_share_the_scale_to_one_hundred_and_others_fill_it() -> None:
    _, [accuracy, nat] = shown([make(1, score=50.0, more={"accuracy_nat": 25.0})])
    assert (accuracy.bars[0].width, nat.bars[0].width) == (50.0, 25.0)
    _, [cider] = shown([make(1, method=m, task="coco_caption", score=s) for m, s in (("a", 200.0), ("b", 50.0))])
    assert [bar.width for bar in cider.bars] == [100.0, 25.0]


def test_whiskers_stay_within_the_chart() -> None:
    _, [chart] = shown([make(number, seed=number, score=score) for number, score in ((0, 99.0), (1, 70.0))])
    [bar] = chart.bars
    assert bar.low is not None
    assert bar.high == 100.0
    assert 0 <= bar.low <= bar.width <= bar.high
