"""Scores by example: what is written, read again, and what interval they give."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.record import MetricValue
from harness.statistics.example_scores import reader, rows, with_interval
from harness.statistics.significance import bootstrap_interval
from harness.store import Store, StoreError
from harness.tables.leaderboard import markdown
from tasks import ExampleScore, Prediction
from tests.records import make

PREDICTIONS = [Prediction("1", "A"), Prediction("2", "B")]
SCORES = {"1": ExampleScore("picture", 100.0), "2": ExampleScore("picture", 0.0)}


def test_scores_come_back_as_they_were_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append(make(), rows(PREDICTIONS, SCORES))
    [record] = Store(tmp_path).read()
    assert reader(store)(record) == SCORES


def test_line_separators_within_an_answer_end_no_line(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append(make(), rows([Prediction("1", "a\u2028b\u2029c\x85d\x0be\nf"), PREDICTIONS[1]], SCORES))
    assert reader(store)(store.read()[0]) == SCORES


def test_predictions_without_scores_have_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append(make("a"), rows(PREDICTIONS, {}))
    store.append(make("b"), None)
    assert [reader(store)(record) for record in store.read()] == [{}, {}]


def test_files_that_are_gone_or_damaged_are_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.append(make(), rows(PREDICTIONS, SCORES))
    [record] = store.read()
    beside = path.with_name(f"{record.run_id}.predictions.jsonl")
    beside.write_text(beside.read_text(encoding="utf-8").replace("100.0", "50.0"), encoding="utf-8")
    with pytest.raises(StoreError, match=r"predictions\.jsonl: not the file that its record names \(sha256\)"):
        reader(store)(record)
    beside.unlink()
    with pytest.raises(StoreError, match=r"predictions\.jsonl: cannot be read"):
        reader(store)(record)


def test_a_table_says_which_file_keeps_it_from_a_test(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("a", "b"):
        store.append(make(name), rows(PREDICTIONS, SCORES)).with_name("x").touch()
    for file in tmp_path.rglob("*.predictions.jsonl"):
        file.unlink()
    text = markdown(store.read(), scores=reader(store))
    assert "differences were not tested: " in text
    assert "cannot be read" in text


def test_an_id_that_comes_twice_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append(make(), rows([PREDICTIONS[0], PREDICTIONS[0]], SCORES))
    with pytest.raises(StoreError, match="an id comes twice"):
        reader(store)(store.read()[0])


def points(count: int) -> dict[str, ExampleScore]:
    return {str(n): ExampleScore(str(n), float(n % 10)) for n in range(count)}


def test_a_score_without_an_interval_gets_one_over_pictures() -> None:
    scores = points(200)
    found = with_interval(MetricValue(value=4.5, unit="points", goal="max", n=200), scores)
    assert found.ci95 == bootstrap_interval([part.value for part in scores.values()], list(scores))
    assert found.ci95[0] < 4.5 < found.ci95[1]


@pytest.mark.parametrize(
    ("score", "count"),
    [
        (MetricValue(value=50.0, unit="%", goal="max", n=200, ci95=(40.0, 60.0)), 200),
        (MetricValue(value=None, unit="points", goal="max", n=200, reason="no Java"), 200),
        (MetricValue(value=4.5, unit="points", goal="max", n=49), 49),
        (MetricValue(value=4.5, unit="points", goal="max", n=200), 0),
    ],
)
def test_other_scores_stay_as_they_are(score: MetricValue, count: int) -> None:
    assert with_interval(score, points(count)) is score
