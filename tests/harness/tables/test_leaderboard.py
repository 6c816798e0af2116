"""Tables: what is shown, in which columns and order, the same in every format."""

from __future__ import annotations

import csv
import io
import json
import random

import pytest

from harness.record import MetricValue
from harness.tables.leaderboard import UnknownColumn, View, markdown, render
from tests.markdown_tables import column, parsed
from tests.records import json_rows, make

# What is shown


def test_one_run_is_shown_with_its_own_interval_and_costs() -> None:
    text = markdown([make(accuracy=93.074)])
    [[row]] = parsed(text)
    assert row["Acc. %"] == "93.07 [1.00, 99.00]"
    assert (row["Method"], row["Seeds"], row["IMG"]) == ("memvp", "1", "40.00")
    assert (row["Trainable M"], row["Trainable %"], row["Saved MB"]) == ("4.53", "0.453", "18.1")
    assert (row["Train step ms"], row["Training samples/s"], row["Train memory MB"]) == ("10.0", "3,200", "40,123")
    assert "Acc. 500 (%), IMG 1,200 (%), NO 0 (%)" in text
    assert "interval over examples (one seed)" in text
    assert "- NO (memvp): no such questions" in text
    assert "Prefill ms, Decode ms/token" in text
    assert "(memvp): not read" in text


def test_other_tasks_show_their_first_score_as_primary() -> None:
    scores = {
        "CIDEr": MetricValue(value=133.2, unit="points", goal="max", n=5000, ci95=(131.0, 135.0)),
        "CHAIR": MetricValue(value=7.0, unit="%", goal="min", n=5000),
    }
    worse = {name: metric.model_copy(update={"value": 130.0}) for name, metric in scores.items()}
    records = [make("a", task="coco_caption", metrics=scores), make("b", task="coco_caption", metrics=worse)]
    text = render([*records, make("c")], format="md", view=View("coco_caption"))
    assert column(text, "CIDEr points") == {"a": "**133.20** [131.00, 135.00]", "b": "130.00 [131.00, 135.00]"}
    assert column(text, "CHAIR") == {"a": "**7.00**", "b": "130.00"}


def test_nothing_to_show_is_said() -> None:
    assert markdown([]) == render([make()], format="md", view=View("retrieval")) == "No runs to compare.\n"
    assert json.loads(render([], format="json")) == []
    assert json_rows([]) == []


def test_columns_are_chosen_and_rows_sorted() -> None:
    records = [make("a", 60.0, step_ms=20.0), make("b", 50.0, step_ms=10.0), make("full", 99.0, step_ms=15.0)]
    view = View(columns=("train_step_ms", "accuracy"), sort="train_step_ms")
    [rows] = parsed(render(records, format="md", view=view))
    assert [row["Method"] for row in rows] == ["b", "full", "a"]
    assert list(rows[0]) == ["Method", "Train step ms", "Acc."]
    [rows] = parsed(render(records, format="md", view=View(sort="accuracy")))
    assert [row["Method"] for row in rows] == ["full", "a", "b"]


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("memory rise", "'eval_rise_bytes' or 'train_rise_bytes'"),
        ("Prefill", "'prefill_ms'"),
        ("Acc. %", "'accuracy'"),
        ("decode", "'decode_ms_per_token'"),
        ("img", "'IMG'"),
        ("trainable_parms", "'trainable_params'"),
    ],
)
def test_columns_are_found_by_what_is_displayed(asked: str, meant: str) -> None:
    with pytest.raises(UnknownColumn, match=f"no table has a column '{asked}'; did you mean {meant}\\?"):
        render([make()], format="md", view=View(columns=(asked,)))


@pytest.mark.parametrize("view", [View(columns=("acuracy",)), View(sort="acuracy")])
def test_a_column_that_no_table_has_is_refused(view: View) -> None:
    with pytest.raises(UnknownColumn, match="no table has a column 'acuracy'; did you mean 'accuracy'"):
        render([make()], format="md", view=view)


def test_a_table_without_the_chosen_scores_keeps_its_own() -> None:
    scores = {"cider": MetricValue(value=50.0, unit="points", goal="max", n=5)}
    records = [make("a"), make("a", task="coco_caption", metrics=scores)]
    found = parsed(render(records, format="md", view=View(columns=("accuracy", "train_step_ms"))))
    assert [list(rows[0]) for rows in found[:2]] == [
        ["Method", "CIDEr points", "Seeds", "Train step ms"],
        ["Method", "Acc. %", "Seeds", "Train step ms"],
    ]


def test_the_text_is_the_same_for_any_order() -> None:
    records = [
        make(method, 50.0 + seed, seed=seed, run__train_limit=limit, method__slots=slots)
        for method in ("a", "b", "frozen")
        for seed in (0, 1, 2)
        for limit in (None, 100)
        for slots in (80, 90)
    ]
    records += [make("c", status="failed", reason=reason, seed=seed) for seed, reason in enumerate(("x", "y"))]
    records += [make("a", 70.0), make("d", metrics={"IMG": records[0].metrics["IMG"]})]
    expected = {format: render(records, format=format) for format in ("md", "latex", "csv", "json")}
    for seed in range(5):
        random.Random(seed).shuffle(records)
        assert {format: render(records, format=format) for format in ("md", "latex", "csv", "json")} == expected


# The other formats


def test_the_settings_of_each_method_stand_below_its_table() -> None:
    text = markdown(
        [make("memvp", 60.0), make("llava", 50.0, method__train_llm=True), make("x|<b>", 1.0, method__a="|")]
    )
    lines = text.splitlines()
    assert "- memvp: lr=0.006, slots=80" in lines
    assert "- llava: lr=0.006, slots=80, train_llm=true" in lines
    assert any(line.startswith("- x\\|&lt;b&gt;: a=\\|, lr=0.006") for line in lines)


def test_each_row_has_the_settings_of_its_own_method() -> None:
    records = [make("memvp", train__lr=0.006), make("lora", train__lr=0.002, method__rank=4)]
    own = {row["method"]: row["own_options"] for row in json.loads(render(records, format="json"))}
    assert own == {"memvp": {"slots": 80, "lr": 0.006}, "lora": {"slots": 80, "rank": 4, "lr": 0.002}}
    rows = csv.DictReader(io.StringIO(render(records, format="csv")))
    assert {row["method"]: json.loads(row["own_options"]) for row in rows} == own


def test_csv_and_json_hold_the_same_rows() -> None:
    records = [make("a", 60.0), make("a", 62.0, seed=1), make("c", status="failed", reason='line\nbreak, "quoted"')]
    rows = list(csv.DictReader(io.StringIO(render(records, format="csv"))))
    same = json.loads(render(records, format="json"))
    assert [row["method"] for row in rows] == [row["method"] for row in same] == ["a", "c"]
    assert (float(rows[0]["accuracy"]), same[0]["accuracy"]) == (61.0, 61.0)
    assert json.loads(rows[0]["seeds"]) == same[0]["seeds"] == [0, 1]
    assert same[0]["runs"] == [record.run_id for record in records[:2]]
    assert (same[0]["prefill_ms"], same[0]["reasons"]["prefill_ms"]) == (None, "not read")
    assert (same[0]["accuracy_low"], same[0]["accuracy_n"]) == (pytest.approx(48.29, abs=0.01), 500)
    assert (rows[1]["status"], rows[1]["reason"], rows[1]["accuracy"]) == ("failed", 'line\nbreak, "quoted"', "")
    assert "c" not in render(records, format="csv", view=View("none")).split(",")


def test_json_has_one_row_per_method() -> None:
    table = json_rows([make("a", 60.0), make("a", 62.0, seed=1), make("frozen", 20.0)])
    assert [row["method"] for row in table] == ["a", "frozen"]
    assert [row["baseline"] for row in table] == [False, True]
    assert [row["trainable_params"] for row in table] == [4_530_432, 4_530_432]


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="'xls'"):
        render([make()], format="xls")  # type: ignore[arg-type]
