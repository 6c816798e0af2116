"""Columns of tables: what is said above and below them, which are shown, and what is marked as best."""

from __future__ import annotations

from typing import Any

from harness.record import METERS, MetricValue, Record, scalar
from harness.tables.leaderboard import View, markdown, render
from tests.markdown_tables import column, parsed
from tests.records import make


def test_the_note_says_which_interval_is_which() -> None:
    text = markdown([make("a"), make("b", 40.0), make("b", 41.0, seed=1)])
    assert (
        "over examples where there is one seed, the t interval of the mean over seeds where there are several" in text
    )


def test_a_tiny_backbone_of_any_name_is_labelled() -> None:
    def sized(params: int, **fields: Any) -> str:
        return markdown([make(meters={"total_params": scalar(params, "params")}, **fields)])

    assert "**Tiny backbone: what works here need not work at size.**" in sized(2_000_000, backbone="my pair")
    assert "Tiny" not in sized(157_000_000, backbone="smol")
    assert "**Tiny backbone, generated pictures:" in sized(157_000_000)
    own = {"data": {"root": "/home/me/my questions"}}
    assert "**Tiny backbone: what works here" in sized(157_000_000, provenance=own)


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


def test_baselines_are_said_to_stand_apart() -> None:
    assert "Baselines are shown for orientation: not ranked" in markdown([make("a"), make("blind")])
    assert "Baselines" not in markdown([make("a")])


def test_columns_without_any_value_are_left_out_and_explained() -> None:
    text = markdown([make()])
    [[row]] = parsed(text)
    assert "Prefill ms" not in row
    assert "Prefill ms, Decode ms/token" in text


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
