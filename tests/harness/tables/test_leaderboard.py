"""Tables: only comparable runs together, seeds aggregated, fair marks, the shape kept whatever the text."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from typing import Any

import pytest
from markdown_it import MarkdownIt

from harness.record import METERS, MetricValue, Record, scalar, unavailable
from harness.tables.leaderboard import UnknownColumn, View, frame, markdown, render
from tests.markdown_tables import column, parsed
from tests.records import make

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


def test_the_note_says_which_interval_is_which() -> None:
    text = markdown([make("a"), make("b", 40.0), make("b", 41.0, seed=1)])
    assert (
        "over examples where there is one seed, the t interval of the mean over seeds where there are several" in text
    )


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
    assert len(frame([])) == 0


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


def test_a_tiny_backbone_of_any_name_is_labelled() -> None:
    def sized(params: int, **fields: Any) -> str:
        return markdown([make(meters={"total_params": scalar(params, "params")}, **fields)])

    assert "**Tiny backbone: what works here need not work at size.**" in sized(2_000_000, backbone="my pair")
    assert "Tiny" not in sized(157_000_000, backbone="smol")
    assert "**Tiny backbone, generated pictures:" in sized(157_000_000)
    own = {"data": {"root": "/home/me/my questions"}}
    assert "**Tiny backbone: what works here" in sized(157_000_000, provenance=own)


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


def test_limits_random_weights_and_cpu_are_said_first() -> None:
    limits: dict[str, Any] = {
        "run__train_limit": 1000,
        "run__eval_limit": 500,
        "run__weights": "random",
        "run__device": "cpu",
    }
    text = markdown([make("a", 90.0, **limits), make("b", 10.0, **limits)])
    note = text.splitlines()[2]
    assert note.startswith("**Limited data: 1,000 training / 500 evaluation examples.** **Random weights")
    assert "**Measured on CPU.**" in note
    assert "train.lr=0.006" in text.splitlines()[-1]
    assert "**Limited data: all training / 500 evaluation examples.**" in markdown([make(run__eval_limit=500)])
    captions = markdown([make(run__train_limit=300, data__train=1500)])
    assert (
        "**Limited data: 300 training / all evaluation examples (an image with all its captions is one).**" in captions
    )
    assert "Limited" not in markdown([make()])


def test_random_weights_are_never_ranked_by_accuracy() -> None:
    records = [make("b", 90.0, run__weights="random"), make("a", 10.0, run__weights="random", meters={})]
    text = markdown(records)
    assert column(text, "Acc. %") == {"a": "–", "b": "–"}
    assert "- Acc., IMG, NO (a, b): random weights: accuracy is not ranked" in text
    assert frame(records)["accuracy"].isna().all()


def test_times_of_different_hardware_are_not_marked() -> None:
    machines = [{"gpu": {"names": [name]}} for name in ("H200", "L4")]
    text = markdown([make("a", 60.0, step_ms=5.0, provenance=machines[0]), make("b", provenance=machines[1])])
    assert "**Measured on different hardware or threads: times and memory are not comparable.**" in text
    assert "Hardware: H200; L4." in text
    assert column(text, "Train step ms") == {"a": "5.00", "b": "10.0"}
    assert column(text, "Acc. %")["a"].startswith("**60.00**")


def test_the_memory_of_a_whole_process_is_not_marked() -> None:
    records = [
        make(name, run__device=device, meters={"train_peak_bytes": scalar(size * 1e6, "bytes")})
        for device in ("cpu", "cuda")
        for name, size in (("a", 100), ("b", 200))
    ]
    shown = {
        table[0]["Train memory MB"]: "earlier" if "earlier runs of the same process" in section else "alone"
        for section, table in zip(markdown(records).split("## ")[1:], parsed(markdown(records)), strict=True)
    }
    assert shown == {"100": "earlier", "**100**": "alone"}


def test_the_memory_of_a_process_for_each_run_is_marked() -> None:
    own = {"run__device": "cpu", "provenance": {"isolated": True}}
    records = [
        make(name, meters={"train_peak_bytes": scalar(size * 1e6, "bytes")}, **own)
        for name, size in (("a", 1), ("b", 2))
    ]
    text = markdown(records)
    assert column(text, "Train memory MB")["a"] == "**1.00**"
    assert "Memory is the whole process's; each run had its own." in text


def test_columns_are_chosen_and_rows_sorted() -> None:
    records = [make("a", 60.0, step_ms=20.0), make("b", 50.0, step_ms=10.0), make("full", 99.0, step_ms=15.0)]
    view = View(columns=("train_step_ms", "accuracy"), sort="train_step_ms")
    [rows] = parsed(render(records, format="md", view=view))
    assert [row["Method"] for row in rows] == ["b", "full", "a"]
    assert list(rows[0]) == ["Method", "Train step ms", "Acc."]
    [rows] = parsed(render(records, format="md", view=View(sort="accuracy")))
    assert [row["Method"] for row in rows] == ["full", "a", "b"]


def test_every_meter_is_a_column_for_who_asks() -> None:
    shown_by = {"params": 1e6, "bytes": 1e6, "FLOPs": 1e9}
    more_is_better = {"train_samples_per_s", "largest_batch", "train_flops_utilisation"}

    def read(first: int) -> dict[str, Any]:
        meters = enumerate(METERS.items(), start=first)
        return {name: scalar(shown_by.get(unit, 1.0) * number, unit) for number, (name, unit) in meters}

    records = [make("a", meters=read(2)), make("b", meters=read(1))]
    usual = parsed(markdown(records))[0][0]
    assert "Total M" not in usual
    for number, name in enumerate(METERS):
        [rows] = parsed(render(records, format="md", view=View(columns=("accuracy", name), sort=name)))
        found = [(row["Method"], float(cell.strip("*"))) for row in rows for cell in list(row.values())[3:]]
        least_first = [("b", number + 1), ("a", number + 2)]
        assert found == (least_first[::-1] if name in more_is_better else least_first), name


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


def test_baselines_are_said_to_stand_apart() -> None:
    assert "Baselines are shown for orientation: not ranked" in markdown([make("a"), make("blind")])
    assert "Baselines" not in markdown([make("a")])


def test_columns_without_any_value_are_left_out_and_explained() -> None:
    text = markdown([make()])
    [[row]] = parsed(text)
    assert "Prefill ms" not in row
    assert "Prefill ms, Decode ms/token" in text


def test_latex_is_a_booktabs_table_whatever_the_names() -> None:
    hostile = "50%_off & \\input{x} #1 ~^<b> \ue000$"
    text = render([make(hostile, 60.0), make("b", 50.0)], format="latex")
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    [line] = [line for line in text.splitlines() if line.strip().startswith("50")]
    assert line.count(" & ") == text.split(r"\midrule")[0].splitlines()[-1].count(" & ")
    assert r"50\%\_off \& \textbackslash{}input\{x\} \#1" in line
    assert r"\textbf{60.00} [1.00, 99.00]" in line
    assert not {"\ue000", "\ue001"} & set(text)
    assert r"Acc. 500 (\%)" in text


def test_latex_names_methods_without_a_result() -> None:
    gone = make("lora_x", status="failed", reason="50% gone\n\\end{table}")
    text = render([make("a"), gone], format="latex")
    assert r"\par\footnotesize lora\_x: failed (seeds 0): 50\% gone \textbackslash{}end\{table\}" in text
    alone = render([gone], format="latex")
    assert r"lora\_x: failed" in alone
    assert r"\toprule" not in alone


def test_latex_holds_what_pdflatex_knows() -> None:
    text = render([make("a→b ✓ − ×")], format="latex")
    assert r"a$\rightarrow$b $\surd$ $-$ $\times$" in text
    assert not set("→✓−×·–") & set(text)


# What is marked as best


def test_the_best_of_each_column_is_bold() -> None:
    text = markdown([make("a", 60.0, step_ms=20.0), make("b", 50.0, step_ms=10.0)])
    assert column(text, "Acc. %") == {"a": "**60.00** [1.00, 99.00]", "b": "50.00 [1.00, 99.00]"}
    assert column(text, "Train step ms") == {"a": "20.0", "b": "**10.0**"}
    assert column(text, "Training samples/s") == {"a": "1,600", "b": "**3,200**"}
    assert column(text, "IMG") == {"a": "**40.00**", "b": "**40.00**"}


def test_scores_over_few_examples_are_not_marked() -> None:
    def scored(method: str, accuracy: float, few: float) -> Record:
        counts = {"accuracy": (accuracy, 500), "G7-12": (few, 14), "NAT": (few, 50)}
        metrics = {name: MetricValue(value=value, unit="%", goal="max", n=n) for name, (value, n) in counts.items()}
        return make(method, metrics=metrics)

    text = markdown([scored("a", 60.0, 50.0), scored("b", 50.0, 60.0)])
    [[a, b]] = parsed(text)
    assert (a["G7-12"], b["G7-12"], b["NAT"]) == ("50.00", "60.00", "**60.00**")
    assert "but for scores over fewer than 50 examples" in text
    assert "fewer than 50" not in markdown([make("a"), make("b")])


def test_small_costs_are_told_apart() -> None:
    records = [
        make(name, meters={"energy_joules": scalar(size, "joules")}) for name, size in (("a", 2e-8), ("b", 1e-8))
    ]
    assert column(markdown(records), "Energy J") == {"a": "2e-08", "b": "**1e-08**"}
    small = [make(meters={"energy_joules": scalar(size, "joules")}) for size in (0.000123456,)]
    assert column(markdown(small), "Energy J") == {"memvp": "0.000123"}


def test_equal_as_shown_is_a_tie() -> None:
    text = markdown([make("a", 60.001), make("b", 59.999), make("c", 50.0)])
    assert [cell.startswith("**60.00**") for cell in column(text, "Acc. %").values()] == [True, True, False]


def test_baselines_and_lone_methods_are_not_marked() -> None:
    alone = markdown([make("a", 60.0), make("frozen", 99.0), make("blind", 98.0), make("full", 97.0)])
    assert "**" not in "".join(cell for row in parsed(alone)[0] for cell in row.values())
    two = column(markdown([make("a", 60.0), make("b", 50.0), make("full", 99.0)]), "Acc. %")
    assert two == {"a": "**60.00** [1.00, 99.00]", "b": "50.00 [1.00, 99.00]", "full": "99.00 [1.00, 99.00]"}


def test_the_only_value_of_a_column_is_not_marked() -> None:
    text = markdown([make("a", meters={"prefill_ms": scalar(5.0, "ms")}), make("b")])
    assert column(text, "Prefill ms") == {"a": "5.00", "b": "–"}


# Whatever the text and the order


HOSTILE = "a|b\n<script>alert(1)</script> **x** `y` [z](http://e) __u__ $e^x$ \\ & \x1b[31m\u2028\u202e end"


def test_hostile_text_keeps_the_shape() -> None:
    score = MetricValue(value=1.0, unit=HOSTILE, goal="max", n=1)
    records = [
        make(HOSTILE, metrics={HOSTILE: score, "other": score}, backbone=HOSTILE, run__image=HOSTILE),
        make("b", metrics={HOSTILE: score}, backbone=HOSTILE, run__image=HOSTILE),
        make("c", status="failed", reason=HOSTILE * 20, backbone=HOSTILE, run__image=HOSTILE),
    ]
    text = markdown(records)
    [table] = parsed(text)
    assert len(table) == 2
    assert "<script" not in text
    assert not {"\x1b", "\u2028", "\u202e"} & set(text)
    html = MarkdownIt("commonmark").enable("table").render(text)
    assert "&lt;script&gt;" in html
    assert not [tag for tag in ("<script", "<a ", "<em", "<code", "<img") if tag in html]
    assert max(map(len, text.splitlines())) < 5000


@pytest.mark.parametrize(
    "name", ["# x", "+ x", "- x", "1. x", "12) x", "=x", "--- x", "-", "3.5 x", "www.e.com http://e.com"]
)
def test_names_that_begin_like_markup_stay_text(name: str) -> None:
    made = MarkdownIt("commonmark").enable("table")
    records = [make("a"), make(name, status="failed", reason=name), make("b", meters={"prefill_ms": unavailable(name)})]
    html = made.render(markdown([*records, make(name, 10.0, seed=3, method__more=1)]))
    usual = made.render(
        markdown([*[r for r in records if r.cell.method != name], make("c", status="failed", reason="c")])
    )
    assert (html.count("<h1"), html.count("<ol"), html.count("<a ")) == (0, 0, 0)
    assert html.count("<ul") == usual.count("<ul")
    assert re.sub(r"\s+", " ", name) in html.replace("&lt;", "<")


def test_addresses_are_no_links() -> None:
    assert r"http\://e.com www\.e.com" in markdown([make(status="failed", reason="http://e.com www.e.com")])


def test_underscores_within_names_stay_readable() -> None:
    assert "lr_max=1" in markdown([make(train__lr_max=1)])


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


def test_frame_has_one_row_per_method() -> None:
    table = frame([make("a", 60.0), make("a", 62.0, seed=1), make("frozen", 20.0)])
    assert list(table["method"]) == ["a", "frozen"]
    assert list(table["baseline"]) == [False, True]
    assert list(table["trainable_params"]) == [4_530_432, 4_530_432]


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="'xls'"):
        render([make()], format="xls")  # type: ignore[arg-type]
