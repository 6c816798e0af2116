"""The whole page: same grouping as the leaderboard, the same bytes for any order, small, and deaf to hostile text."""

from __future__ import annotations

import html.parser
import json
import random
import re
from pathlib import Path

import pytest

from harness.report import render
from harness.report.page import page
from harness.store import Store
from harness.tables.rows import tables
from tests.harness.report.hostile import HOSTILE, hostile_folder
from tests.harness.report.records import fill, make


class Shape(html.parser.HTMLParser):
    """Counts of start tags, and the attributes that could run something or leave the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.active: list[tuple[str, str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attrs:
            outward = name in ("src", "href") and not str(value).startswith(("#", "data:,"))
            if name.startswith("on") or outward:
                self.active.append((tag, name, value))


def data(text: str) -> dict[str, dict[str, object]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])  # type: ignore[no-any-return]


def test_sections_are_the_leaderboards_tables(tmp_path: Path) -> None:
    records = fill(tmp_path, methods=["a", "b", "frozen"])
    found = page(records, Store(tmp_path), [])
    assert [section.title for section in found.sections] == [table.title for table in tables(records)]
    assert [[line.label for line in section.grid.lines] for section in found.sections] == [
        [row.method for row in table.rows] for table in tables(records)
    ]
    assert all(section.tests.matrix is not None for section in found.sections)
    assert found.tasks == ["coco_caption", "retrieval"]


def test_limits_and_reasons_are_said() -> None:
    run = {"train_limit": 1000, "weights": "random", "device": "cpu"}
    text = render([make(1, run=run), make(2, method="b", run=run, status="skipped", reason="needs a decoder")], None)
    assert "Limited data: 1,000 training / all evaluation examples" in text
    assert "Random weights: costs only, accuracy is not ranked." in text
    assert "Measured on CPU." in text
    assert "skipped (seeds 0): needs a decoder" in text
    scores = "Acc., Score per M params, Score per kJ, Score per min of training"
    assert f"<b>{scores}</b> (memvp): random weights: accuracy is not ranked" in text
    assert "No tests: memvp: random weights: accuracy is not ranked." in text
    without = "memvp: the report was made without the results folder."
    assert f"No tests: {without}" in render([make(1)], None)
    assert f"No examples: {without}" in render([make(1)], None)


def test_a_row_without_its_predictions_is_left_out_with_the_reason(tmp_path: Path) -> None:
    records = fill(tmp_path, methods=["a", "b", "c"], seeds=(0,))
    for path in (tmp_path / "runs/mini/retrieval/b").glob("*.jsonl"):
        path.unlink()
    tests = page(records, Store(tmp_path), []).sections[1].tests
    assert tests.matrix is not None
    assert [label for label, _ in tests.labels] == ["a", "c"]
    assert re.fullmatch(r"b: 2026-\d+\.predictions\.jsonl cannot be read \(No such file or directory\)", tests.left_out)
    assert "Without answers: b:" in render(records, tmp_path)


def test_methods_that_cannot_be_told_apart_from_the_best_are_bold(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number, (method, right) in enumerate((("a", 190), ("b", 188), ("c", 60), ("frozen", 200))):
        lines = [{"id": str(n), "output": "A", "score": 100.0 * (n < right), "group": str(n)} for n in range(200)]
        store.append(make(number, method=method, score=right / 2), lines)
    [section] = page(store.read(), store, []).sections
    assert {line.label: line.cells[0].best for line in section.grid.lines} == {
        "a": True,
        "b": True,
        "c": False,
        "frozen": False,
    }
    assert "cannot be told apart from it on these examples (exact McNemar test" in section.grid.legend
    assert "Minimum detectable difference: about 11.6 percentage points (80 % power)" in section.grid.legend


def test_right_and_wrong_are_told_of_choices_only_and_where_they_are_unknown_why(tmp_path: Path) -> None:
    fill(tmp_path, methods=["a"], seeds=(0,))
    store = Store(tmp_path)
    scored = [
        {"id": "1", "output": "A", "score": 100.0, "group": "1"},
        {"id": "2", "output": "B", "score": 0.0, "group": "2"},
    ]
    store.append(make(98, method="new"), scored)
    store.append(make(99, method="old"), [{"id": "1", "output": "A"}, {"id": "2", "output": "B"}])
    spoken, found, asked = page(store.read(), store, []).sections
    assert spoken.examples is not None
    assert found.examples is not None
    assert asked.examples is not None
    assert {example["r"][0] for example in spoken.examples["examples"]} == {None}
    assert {example["r"][0] for example in found.examples["examples"]} == {0, 1}
    assert {example["id"]: example["r"] for example in asked.examples["examples"]} == {"1": [1, None], "2": [0, None]}
    assert (spoken.not_judged, found.not_judged) == ("", "")
    assert asked.not_judged == "old: no score for each example was saved (run again with --fresh)"
    assert "Right or wrong is not known: old:" in render(store.read(), tmp_path)


def test_the_order_of_the_records_changes_nothing(tmp_path: Path) -> None:
    records = fill(tmp_path, methods=["a", "b", "frozen"], seeds=(0, 1))
    text = render(records, tmp_path)
    for seed in range(3):
        random.Random(seed).shuffle(records)
        assert render(records, tmp_path) == text


def test_a_method_has_one_colour_in_the_whole_page(tmp_path: Path) -> None:
    text = render(fill(tmp_path, methods=["a", "b", "frozen"]), tmp_path)
    points = [point for plots in data(text)["plots"].values() for plot in plots for point in plot["points"]]  # type: ignore[attr-defined]
    for method in ("a", "b", "frozen"):
        assert len({(point["look"], point["symbol"]) for point in points if point["method"] == method}) == 1
    assert len({point["look"] for point in points}) == 3


def test_hostile_text_changes_neither_tags_nor_scripts(tmp_path: Path) -> None:
    kind, hostile = (hostile_folder(tmp_path / name, name == "hostile") for name in ("kind", "hostile"))
    texts = [render(Store(root).read(), root) for root in (kind, hostile)]
    shapes = [Shape(text) for text in texts]
    assert shapes[0].tags == shapes[1].tags
    assert shapes[0].active == shapes[1].active == []
    assert HOSTILE not in texts[1]
    assert texts[1].count("\u2028") == texts[0].count("\u2028")
    assert data(texts[1])["runs"]


def test_nothing_to_show_is_said() -> None:
    assert "No runs to compare." in render([], None)


def test_mean_ranks_over_tasks_stand_on_the_page(tmp_path: Path) -> None:
    records = fill(tmp_path, methods=["a", "b", "frozen"])
    [ranking] = page(records, Store(tmp_path), []).rankings
    assert ranking.heads == ["Method", "Mean rank", "coco_caption · mini", "retrieval · mini"]
    # Later methods of these records speak better and find less.
    assert [(label, cells[1:]) for label, _, cells in ranking.rows] == [
        ("a", ["2.00", "1.00"]),
        ("b", ["1.00", "2.00"]),
    ]
    assert "Overall · mini" in render(records, tmp_path)
    assert "Overall · mini" not in render([r for r in records if r.cell.task == "retrieval"], tmp_path)


def test_of_too_many_runs_the_first_seeds_in_tables_have_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = fill(tmp_path, methods=["a", "b", "frozen"], seeds=(0, 1), steps=20)
    late = make(0, method="a", task="retrieval", status="failed", reason="x")
    monkeypatch.setattr("harness.report.page.MOST_PAGES", 7)
    found = page([*records, late], Store(tmp_path), [])
    shown = [record for record in records if record.run_id in found.runs]
    assert (len(found.runs), found.count, set(found.curves)) == (7, 13, set(found.runs))
    assert len({(record.cell.method, record.cell.task) for record in shown if record.cell.seed == 0}) == 6
    text = render([*records, late], tmp_path)
    assert "7 of 13 runs, taken from those that the tables count" in text
    links = re.findall(r'href="#run-([^"]+)"', text)
    assert set(links) == set(found.runs)


def test_the_scores_of_a_run_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, store, read = fill(tmp_path, methods=["a", "b"], seeds=(0,)), Store(tmp_path), []
    rows = Store.rows
    monkeypatch.setattr(Store, "rows", lambda *given: [read.append(given[1].run_id), rows(*given)][1])
    page(records, store, [])
    assert sorted(read) == sorted(record.run_id for record in records)


@pytest.mark.slow
def test_two_hundred_runs_stay_below_ten_megabytes(tmp_path: Path) -> None:
    records = fill(tmp_path, methods=["a", "b", "c", "d", "frozen"], seeds=range(20), n=1000, steps=5000)
    assert len(records) == 200
    text = render(records, tmp_path)
    assert len(data(text)["curves"]) == 200
    assert len(text.encode()) < 10_000_000
