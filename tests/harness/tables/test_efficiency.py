"""What a score costs: quotients of what a table shows, and why some have no value."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.record import METERS, Cell, MetricValue, Record, scalar, unavailable
from harness.tables.columns import EFFICIENCY
from harness.tables.efficiency import DIVISORS, RATE, efficiency
from harness.tables.leaderboard import View, render
from harness.tables.rows import tables

KEYS = [cost.key for cost in EFFICIENCY]
VALUES: dict[str, float | None] = {
    "accuracy": 80.0,
    "trainable_params": 4_000_000,
    "energy_joules": 500.0,
    "train_wall_s": 120.0,
    "train_flops_per_sample": 5e9,
    "train_samples_per_s": 400.0,
}


def run(method: str = "memvp", *, number: int = 1, goal: str = "max", **meters: float | None) -> Record:
    read: dict[str, Any] = {name: unavailable(f"{name} not read") for name in METERS}
    given = {name: value for name, value in VALUES.items() if name in METERS} | meters
    read |= {name: scalar(value, METERS[name]) for name, value in given.items() if value is not None}
    return Record(
        run_id=f"run-{number}",
        status="ok",
        cell=Cell(method=method, task="scienceqa", backbone="mini", seed=number, options={}),
        metrics={"accuracy": MetricValue(value=80.0, unit="%", goal=goal, n=40)},  # type: ignore[arg-type]
        meters=read,
    )


def test_the_quotients_by_hand() -> None:
    assert efficiency(VALUES, {}, primary="accuracy", goal="max") == {
        "score_per_million_params": 20.0,
        "score_per_kilojoule": 160.0,
        "score_per_train_minute": 40.0,
        "train_tflops_per_s": 2.0,
    }


def test_columns_are_those_that_are_computed() -> None:
    assert [*DIVISORS, RATE, "train_flops_utilisation"] == KEYS


def test_what_is_missing_or_zero_is_a_reason() -> None:
    values = VALUES | {"trainable_params": 0, "energy_joules": None, "train_samples_per_s": None}
    reasons = {"energy_joules": "no counter", "train_samples_per_s": "not trained"}
    found = efficiency(values, reasons, primary="accuracy", goal="max")
    assert found["score_per_million_params"] == "trainable_params is 0"
    assert found["score_per_kilojoule"] == "no counter"
    assert found[RATE] == "not trained"
    hidden = efficiency(VALUES | {"accuracy": None}, {"accuracy": "random weights"}, primary="accuracy", goal="max")
    assert [hidden[name] for name in DIVISORS] == ["random weights"] * 3
    assert hidden[RATE] == 2.0


def test_a_score_of_which_less_is_better_is_not_shared_out() -> None:
    found = efficiency(VALUES, {}, primary="accuracy", goal="min")
    assert {found[name] for name in DIVISORS} == {"lower is better in accuracy: a share of it says nothing"}
    assert found[RATE] == 2.0


def test_seeds_are_summed_up_before_they_are_divided() -> None:
    [table] = tables([run(number=1, train_wall_s=60.0), run(number=2, train_wall_s=240.0)])
    assert table.rows[0].values["score_per_train_minute"] == pytest.approx(80 / 2.5)


def test_tables_have_them_only_when_asked_and_then_explain_what_is_missing() -> None:
    records = [run("a"), run("b", number=2, energy_joules=None)]
    usual = render(records, format="md")
    assert "per M params" not in usual
    assert "per kJ" not in usual
    asked = render(records, format="md", view=View(columns=("accuracy", *KEYS), sort="score_per_kilojoule"))
    assert "| Score per M params | Score per kJ | Score per min of training | Training TFLOP/s |" in " ".join(
        asked.split()
    )
    assert "- Score per kJ (b): energy_joules not read" in asked
    for format in ("latex", "json", "csv"):
        view = View(columns=("score_per_kilojoule",)) if format == "latex" else None
        assert "160" in render(records, format=format, view=view)  # type: ignore[arg-type]
    first, second = json.loads(render(records, format="json"))
    assert (first["score_per_kilojoule"], second["score_per_kilojoule"]) == (160.0, None)
    assert second["reasons"]["score_per_kilojoule"] == "energy_joules not read"


def test_a_rise_of_memory_is_a_column() -> None:
    records = [run("a", train_rise_bytes=5_000_000, eval_rise_bytes=2_000_000)]
    assert "Train memory rise MB" in render(records, format="md")
    assert "Eval memory rise MB" in render(records, format="md")
