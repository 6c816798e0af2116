"""Pareto plots: the front is what its definition says, and nothing is silently left out."""

from __future__ import annotations

import random
from typing import Any, Literal

import pytest

from harness.record import Record
from harness.report.colours import look_of, looks
from harness.report.pareto import front, plots
from harness.tables.rows import tables
from tests.harness.report.records import make


def unbeaten(points: list[tuple[float, float]], goal: str) -> set[int]:
    """The definition: no other point has no more cost, no worse score, and is better in one of them."""
    sign = 1 if goal == "max" else -1

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] and sign * a[1] >= sign * b[1] and a != b

    return {i for i, point in enumerate(points) if not any(beats(other, point) for other in points)}


@pytest.mark.parametrize("goal", ["max", "min"])
def test_the_front_is_what_the_definition_says(goal: Literal["max", "min"]) -> None:
    rng = random.Random(1)
    for _ in range(300):
        # Few values, so that ties in one and in both coordinates are common.
        points = [(float(rng.randint(0, 5)), float(rng.randint(0, 5))) for _ in range(rng.randint(0, 12))]
        found = front(points, goal=goal)
        assert set(found) == unbeaten(points, goal)
        assert [points[index][0] for index in found] == sorted(points[index][0] for index in found)


def drawn(records: list[Record]) -> dict[str, dict[str, Any]]:
    known, by_run = looks(record.cell.method for record in records), {record.run_id: record for record in records}
    [table] = tables(records)
    found = plots(table, lambda row: look_of(row, by_run, known), by_run)
    return {plot["x"]: plot for plot in found}


def test_a_plot_has_every_method_and_a_front_of_methods_only() -> None:
    records = [
        make(1, method="cheap", score=40.0, params=1_000),
        make(2, method="dear", score=60.0, params=3_000),
        make(3, method="worse", score=30.0, params=2_000),
        make(4, method="full", score=99.0, params=2_500),
    ]
    plot = drawn(records)["Trainable (M)"]
    labels = [point["label"] for point in plot["points"]]
    assert sorted(labels) == ["cheap", "dear", "full", "worse"]
    assert [labels[index] for index in plot["front"]] == ["cheap", "dear"]
    assert plot["summary"] == "On the front, by rising cost: cheap, dear."
    assert not plot["log"]


def test_hovering_tells_score_cost_seeds_and_settings() -> None:
    plot = drawn([make(1, settings={"slots": 80, "alpha": 0.1})])["Trainable (M)"]
    assert plot["points"][0]["hover"] == [
        "memvp",
        "Acc. 50.00",
        "Trainable 1.00 M",
        "seeds 0",
        "alpha = 0.1",
        "lr = 0.006",
        "slots = 80",
    ]


def test_a_wide_spread_is_logarithmic_and_what_is_free_is_named() -> None:
    records = [
        make(1, method="a", params=1_000),
        make(2, method="b", params=90_000),
        make(3, method="frozen", params=0),
    ]
    plot = drawn(records)["Trainable (M)"]
    assert plot["log"]
    assert len(plot["points"]) == 2
    assert plot["summary"].endswith("Not on the logarithmic axis: frozen (0).")


def test_memory_of_a_whole_process_has_no_front() -> None:
    plot = drawn([make(1, run={"device": "cpu"})])["Train memory (MB)"]
    assert plot["points"]
    assert plot["front"] == []
    assert plot["summary"].startswith("No front: on a CPU this is the whole process's memory")


def test_what_cannot_be_drawn_says_why() -> None:
    random_weights = drawn([make(1, run={"weights": "random"})])
    assert {plot["why"] for plot in random_weights.values()} == {
        "Nothing to draw: random weights: accuracy is not ranked."
    }
