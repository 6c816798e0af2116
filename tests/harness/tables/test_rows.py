"""Rows of tables: what shares a table, how seeds are summed up, and what stands where a value is missing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.record import scalar
from harness.tables.leaderboard import markdown, render
from tests.markdown_tables import column, parsed
from tests.records import json_rows, make


def test_seeds_become_one_row_with_a_t_interval() -> None:
    text = markdown(
        [make(accuracy=value, seed=seed, step_ms=step) for seed, value, step in [(0, 90, 1), (1, 92, 9), (2, 94, 2)]]
    )
    [[row]] = parsed(text)
    assert row["Acc. %"] == "92.00 [87.03, 96.97]"
    assert (row["Seeds"], row["Train step ms"]) == ("3", "2.00")
    assert "t interval of the mean over seeds" in text


def test_an_interval_of_shares_stays_within_them() -> None:
    text = markdown([make(accuracy=value, seed=seed) for seed, value in enumerate((80.0, 99.0))])
    assert column(text, "Acc. %") == {"memvp": "89.50 [0.00, 100.00]"}


def test_seeds_without_a_value_are_counted_apart() -> None:
    seeds = [make(accuracy=None, seed=0), make(accuracy=90.0, seed=1)]
    text = markdown(seeds)
    # The interval is that of the seed that has a value, over examples, and none over seeds.
    assert column(text, "Acc. %") == {"memvp": "90.00 [1.00, 99.00]"}
    assert column(text, "Seeds") == {"memvp": "1 of 2"}
    assert "- Acc. (memvp): from 1 of 2 seeds; no value of the others: none" in text
    assert "interval over examples (one seed)" in text
    assert json.loads(render(seeds, format="json"))[0]["reasons"]["accuracy"].startswith("from 1 of 2 seeds; ")
    three = markdown([*seeds, make(accuracy=92.0, seed=2, meters={"prefill_ms": scalar(5.0, "ms")})])
    assert column(three, "Seeds") == {"memvp": "2 of 3"}
    assert "t interval of the mean over seeds" in three
    assert "- Prefill ms (memvp): from 1 of 3 seeds; no value of the others: not read" in three


def test_a_later_ok_run_of_a_cell_replaces_the_earlier_and_a_failure_does_not() -> None:
    text = markdown([make(accuracy=10.0), make(accuracy=20.0), make(status="failed", reason="out of memory")])
    assert column(text, "Acc. %") == {"memvp": "20.00 [1.00, 99.00]"}
    assert "out of memory" not in text


def test_methods_without_a_result_are_listed_with_the_reason() -> None:
    text = markdown(
        [make("a"), make("mwa", status="skipped", reason="needs\na decoder"), make("b", status="failed", reason="x")]
    )
    assert "Without a result:\n\n- b: failed (seeds 0): x\n- mwa: skipped (seeds 0): needs a decoder" in text
    assert list(column(text, "Method")) == ["a"]
    only = markdown([make("b", status="interrupted", reason="Ctrl-C")])
    assert "- b: interrupted (seeds 0): Ctrl-C" in only
    assert parsed(only) == []


def test_rows_are_ranked_with_baselines_below() -> None:
    text = markdown([make("frozen", 99.0), make("a", 10.0), make("b", 20.0), make("blind", 5.0)])
    assert list(column(text, "Method")) == ["b", "a", "blind", "frozen"]


# What shares a table


@pytest.mark.parametrize(
    "change",
    [
        {"task": "coco_caption"},
        {"backbone": "smol"},
        {"task__answer": "likelihood"},
        {"train__steps": 7},
        {"run__train_limit": 1000},
        {"run__eval_limit": 500},
        {"run__precision": "bf16"},
        {"run__device": "cpu"},
        {"run__weights": "random"},
        {"data__sha256": "cd" * 32},
        {"run__a_new_option": True},
    ],
)
def test_runs_that_cannot_be_compared_have_their_own_tables(change: dict[str, Any]) -> None:
    text = markdown([make("a"), make("b", **change)])
    tables = parsed(text)
    assert sorted(row["Method"] for [row] in tables) == ["a", "b"]
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert len(set(headings)) == 2


def test_the_headings_tell_tables_apart_by_what_differs() -> None:
    text = markdown([make("a", run__train_limit=1000), make("b"), make("c", data__sha256="cd" * 32)])
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert "## scienceqa · mini · data.sha256=cdcdcdcdcdcd · run.train_limit=null" in headings


def test_the_headings_name_data_that_is_not_generated() -> None:
    roots = {
        "a": "/data/flickr8k",
        "b": "/root/.cache/data/mini-pairs-d3c1ea07ff8e",
        "c": "/somewhere/scienceqa",
        "d": "/x|<b>",
    }
    for method, root in roots.items():
        record = make(method, task="scienceqa", provenance={"data": {"root": root}})
        [heading] = [line for line in markdown([record]).splitlines() if line.startswith("## ")]
        expected = {"a": "## scienceqa (flickr8k) · mini", "d": r"## scienceqa (x\|&lt;b&gt;) · mini"}
        assert heading == expected.get(method, "## scienceqa · mini")


def test_a_method_with_other_settings_or_another_gpu_shares_the_table() -> None:
    text = markdown([make("a"), make("b", run__device="cuda:1"), make("a", 40.0, seed=1, method__slots=90)])
    assert sorted(column(text, "Seeds").items()) == [("a (slots=80)", "1"), ("a (slots=90)", "1"), ("b", "1")]


def test_methods_may_have_a_learning_rate_of_their_own() -> None:
    text = markdown([make("a"), make("b", train__lr=0.1), make("b", 40.0, seed=1, train__lr=0.2)])
    assert sorted(column(text, "Seeds").items()) == [("a", "1"), ("b (lr=0.1)", "1"), ("b (lr=0.2)", "1")]
    assert "train.lr=a 0.006, b 0.2" in markdown([make("a"), make("b", train__lr=0.2)])


def test_records_without_the_usual_options_are_shown_too() -> None:
    bare = make()
    records = [
        bare.model_copy(update={"cell": bare.cell.model_copy(update={"options": options})})
        for options in ({}, {"run": 3})
    ]
    assert len(parsed(markdown(records))) == 2


def test_random_weights_are_never_ranked_by_accuracy() -> None:
    records = [make("b", 90.0, run__weights="random"), make("a", 10.0, run__weights="random", meters={})]
    text = markdown(records)
    assert column(text, "Acc. %") == {"a": "–", "b": "–"}
    assert "- Acc., IMG, NO (a, b): random weights: accuracy is not ranked" in text
    assert all(row["accuracy"] is None for row in json_rows(records))
