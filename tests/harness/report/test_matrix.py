"""The significance matrix: the shared tests on the same examples, corrected by family, antisymmetric."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytest

from harness.record import Record
from harness.report import answers
from harness.report.colours import look_of, looks
from harness.report.matrix import MOST_ROWS, Matrix, Verdicts, matrix, verdicts
from harness.report.wording import p_value
from harness.statistics.example_scores import Scores
from harness.statistics.paired import Incomparable, Samples, compare
from harness.statistics.significance import holm
from harness.statistics.standing import Standing
from harness.store import Store
from harness.tables.rows import Row, tables
from tasks import ExampleScore
from tests.harness.report.records import fill, fill_questions, make

Parts = Mapping[str, ExampleScore]


def parts(values: list[float]) -> Parts:
    return {f"{index:04d}": ExampleScore(str(index), value) for index, value in enumerate(values)}


def right(share: float, *, seed: int, n: int = 200) -> Parts:
    rng = random.Random(seed)
    return parts([100.0 * (rng.random() < share) for _ in range(n)])


def compared(found: Mapping[str, Parts], *, goal: Literal["max", "min"] = "max") -> tuple[Matrix, list[Record], Scores]:
    """The matrix of one run each, by method."""
    runs = [make(number, method=method) for number, method in enumerate(found)]
    known = {run.run_id: found[run.cell.method] for run in runs}
    rows = [Row(run.cell.method, run.cell.method == "full", "ok", None, [0], [run.run_id]) for run in runs]

    def scores(record: Record) -> Parts:
        return known[record.run_id]

    return matrix(rows, [[run] for run in runs], scores, goal=goal), runs, scores


def of_table(records: list[Record], scores: Scores) -> Verdicts:
    known, by_run = looks(record.cell.method for record in records), {record.run_id: record for record in records}
    [table] = tables(records, scores)
    return verdicts(table, by_run, scores, lambda row: look_of(row, by_run, known))


def test_pairs_are_tested_as_everywhere_with_holm() -> None:
    found, runs, scores = compared(
        {name: right(share, seed=i) for i, (name, share) in enumerate(zip("abc", (0.9, 0.6, 0.6), strict=True))}
    )
    pairs = [compare([runs[a]], [runs[b]], Samples(scores)) for a, b in ((0, 1), (0, 2), (1, 2))]
    expected = holm([pair.p_value for pair in pairs])
    top = found.entries[0]
    assert top[0] is None
    assert [entry.p for entry in (*top[1:], found.entries[1][2]) if entry] == [p_value(p) for p in expected]
    assert [entry.text for entry in top[1:] if entry] == [f"{pair.difference.difference:+.2f}" for pair in pairs[:2]]
    assert found.note.startswith("Exact McNemar test; p-values are Holm-corrected over the 3 pairs between methods.")
    assert [entry.verdict for entry in top[1:] if entry] == ["better", "better"]
    assert [row[0].verdict for row in found.entries[1:] if row[0]] == ["worse", "worse"]


def test_pairs_with_a_baseline_do_not_change_those_of_methods() -> None:
    methods = {name: right(share, seed=i) for i, (name, share) in enumerate((("a", 0.7), ("b", 0.6), ("c", 0.62)))}
    alone, _, _ = compared(methods)
    found, runs, scores = compared({**methods, "full": right(0.8, seed=9)})
    assert [row[:3] for row in found.entries[:3]] == alone.entries
    others = [compare([run], [runs[3]], Samples(scores)).p_value for run in runs[:3]]
    assert [row[3].p for row in found.entries[:3] if row[3]] == [p_value(p) for p in holm(others)]
    assert "over the 3 pairs between methods, and on their own over the 3 pairs with a baseline." in found.note


def test_the_p_values_are_those_behind_the_marks_of_the_table(tmp_path: Path) -> None:
    records = [r for r in fill(tmp_path, methods=["a", "b", "c", "frozen"]) if r.cell.task == "coco_caption"]
    scores = answers.scores(Store(tmp_path))
    found, [table] = of_table(records, scores), tables(records, scores)
    assert found.matrix is not None
    assert isinstance(table.standing, Standing)
    place = {label: index for index, (label, _) in enumerate(found.labels)}
    assert len(place) == 4
    for (a, b), p in table.standing.p_values.items():
        entry = found.matrix.entries[place[a]][place[b]]
        assert entry is not None
        assert entry.p == p_value(p)
    assert found.matrix.note.startswith("Paired bootstrap by picture")


def test_both_halves_say_the_same() -> None:
    found, _, _ = compared({"a": right(0.9, seed=1), "b": right(0.5, seed=2)})
    upper, lower = found.entries[0][1], found.entries[1][0]
    assert upper is not None
    assert lower is not None
    assert upper.p == lower.p
    assert upper.text.replace("+", "−") == lower.text
    assert "over the one pair between methods." in found.note


def test_where_less_is_better_the_smaller_wins() -> None:
    small, large = (parts([value + more for value in range(60)]) for more in (0.0, 9.0))
    found, _, _ = compared({"a": small, "b": large}, goal="min")
    assert found.entries[0][1] is not None
    assert found.entries[0][1].verdict == "better"


def test_what_cannot_be_compared_says_why() -> None:
    one = right(0.5, seed=1)
    with pytest.raises(Incomparable, match="nothing to compare with"):
        compared({"a": one})
    with pytest.raises(Incomparable, match="too many pairs"):
        compared({str(number): one for number in range(MOST_ROWS + 1)})
    with pytest.raises(Incomparable, match="differ in 1 examples"):
        compared({"a": one, "b": {**one, "more": ExampleScore("more", 1.0)}})
    with pytest.raises(Incomparable, match="too few for a test"):
        compared({"a": parts([1.0, 2.0]), "b": parts([2.0, 2.0])})


def test_rows_without_scores_are_left_out_with_the_reason(tmp_path: Path) -> None:
    fill_questions(tmp_path / "r", tmp_path / "data", methods=["a", "b"])
    store = Store(tmp_path / "r")
    # As runs before scores by example wrote them, and a run whose score has no value.
    store.append(make(1, method="old"), [{"id": "1", "output": "A", "choice": 0}])
    store.append(make(2, method="none"), None)
    store.append(make(3, method="unscored", score=None), [{"id": "1", "output": "A", "choice": 0}])
    found = of_table(store.read(), answers.scores(store))
    assert found.matrix is not None
    assert [label for label, _ in found.labels] == ["a", "b"]
    assert sorted(found.left_out.split("; ")) == [
        "none, old: no score for each example was saved (run again with --fresh)",
        "unscored: not scored",
    ]
