"""Mean ranks over several tasks."""

from __future__ import annotations

import csv
import io
import json

import pytest

from harness.record import MetricValue, Record
from harness.tables.leaderboard import markdown, render
from harness.tables.overall import overall
from harness.tables.rows import tables
from tasks import ExampleScore
from tests.markdown_tables import parsed
from tests.records import make


def scored(method: str, task: str, value: float, seed: int = 0, goal: str = "max", **options: object) -> Record:
    metric = MetricValue(value=value, unit="x", goal=goal, n=10)  # type: ignore[arg-type]
    return make(method, task=task, seed=seed, metrics={f"score_of_{task}": metric}, **options)


# Seed 0: a, b, c rank 1, 2, 3 on one task and 2.5, 1, 2.5 on the other; seed 1: 1, 2, 3 and 3, 2, 1.
HIGHER = {("a", 0): 9, ("b", 0): 8, ("c", 0): 7, ("a", 1): 9, ("b", 1): 8, ("c", 1): 7}
LOWER = {("a", 0): 5, ("b", 0): 4, ("c", 0): 5, ("a", 1): 3, ("b", 1): 2, ("c", 1): 1}
RECORDS = [
    *(scored(method, "one", value, seed) for (method, seed), value in HIGHER.items()),
    *(scored(method, "two", value, seed, goal="min") for (method, seed), value in LOWER.items()),
    *(scored("full", task, 100, seed) for task in ("one", "two") for seed in (0, 1)),
    scored("d", "one", 10),
    scored("a", "one", 0, seed=7),
]


def test_ranks_are_averaged_over_tasks_and_seeds() -> None:
    [found] = overall(tables(RECORDS), RECORDS)
    assert (found.backbone, found.tasks, found.seeds) == ("mini", ["one · mini", "two · mini"], [0, 1])
    assert found.ranks == {"a": [1.0, 2.75], "b": [2.0, 1.5], "c": [3.0, 1.75]}
    assert [(name, mean.mean) for name, mean in found.mean.items()] == [("b", 1.75), ("a", 1.875), ("c", 2.375)]
    # Of 1.5 and 2, 12.7 standard errors of the mean; ranks are from 1 to 3.
    assert found.mean["b"].ci95 == (1.0, 3.0)


def test_an_interval_of_ranks_is_cut_where_ranks_end() -> None:
    many = [
        scored(method, task, score + (seed + 7 * score) % 3, seed)
        for task in ("one", "two")
        for seed in range(4)
        for score, method in enumerate("abcdefgh")
    ]
    [found] = overall(tables(many), many)
    assert all(summary.ci95 is not None for summary in found.mean.values())
    assert all(1 <= low <= high <= 8 for low, high in (s.ci95 for s in found.mean.values() if s.ci95))
    # Of 4, 3, 5 and 4, 3.182 standard errors of the mean to either side: nothing is cut.
    assert found.mean["e"].ci95 == pytest.approx((4 - 3.1824 / 6**0.5, 4 + 3.1824 / 6**0.5), abs=1e-4)


def test_a_try_out_run_takes_no_ranking_away() -> None:
    few = [scored("a", "one", 3, train__steps=7), scored("b", "one", 2, train__steps=7, seed=9)]
    late = [scored("a", "two", 3, goal="min", train__steps=7)]
    records = [*RECORDS, *few, *late]
    [found] = overall(tables(records), records)
    [alone] = overall(tables(RECORDS), RECORDS)
    assert (found.ranks, found.seeds) == (alone.ranks, alone.seeds)
    assert found.tasks == ["one · mini · train.steps=null", "two · mini · train.steps=null"]


def test_of_tables_with_as_many_methods_that_with_most_seeds_counts() -> None:
    longer = [scored(m, "one", v, seed, train__steps=9) for m, v in (("a", 1), ("b", 2), ("c", 3)) for seed in range(5)]
    base = [record for record in RECORDS if record.cell.method != "d"]
    records = [*base, *longer]
    [found] = overall(tables(records), records)
    assert found.tasks == ["one · mini · train.steps=9", "two · mini"]


def test_ranks_of_a_table_without_a_difference_are_called_chance() -> None:
    records = [
        scored(method, task, 50, task_number) for method in "ab" for task_number, task in ((0, "one"), (0, "two"))
    ]
    same = {str(n): ExampleScore(str(n), float(n % 7)) for n in range(60)}
    better = {id: ExampleScore(part.group, part.value + 1 + int(id) % 2) for id, part in same.items()}
    of = {("a", "one"): same, ("b", "one"): same, ("a", "two"): better, ("b", "two"): same}
    found = tables(records, lambda record: of[record.cell.method, record.cell.task])
    [ranked] = overall(found, records)
    assert ranked.chance == ["one · mini"]
    text = render(records, format="md", scores=lambda record: of[record.cell.method, record.cell.task])
    assert "In one · mini no two methods can be told apart: its ranks are chance." in text
    assert "In two · mini" not in text


def test_every_format_has_them() -> None:
    rows = [row for row in json.loads(render(RECORDS, format="json")) if row["status"] == "overall"]
    assert (rows[0]["method"], rows[0]["mean_rank"], rows[0]["mean_rank_low"]) == ("b", 1.75, 1.0)
    assert rows[0]["ranks"] == {"one · mini": 2.0, "two · mini": 1.5}
    assert [row["method"] for row in csv.DictReader(io.StringIO(render(RECORDS, format="csv")))][-3:] == ["b", "a", "c"]
    text = render(RECORDS, format="latex")
    assert r"Overall \textperiodcentered{} mini. Ranks by the first score" in text
    assert "1.75 [1.00, 3.00]" in text


def test_the_markdown_ends_with_them() -> None:
    text = markdown(RECORDS)
    assert text.index("## Overall · mini") > text.index("## two · mini")
    ranking = parsed(text)[-1]
    assert [row["Method"] for row in ranking] == ["b", "a", "c"]
    assert ranking[0]["two · mini"] == "1.50"


@pytest.mark.parametrize(
    "records",
    [
        [scored("a", "one", 1), scored("b", "one", 2)],
        [scored("a", "one", 1), scored("b", "one", 2), scored("a", "two", 1), scored("full", "two", 2)],
        [scored(m, "one", 1) for m in "ab"] + [scored(m, "two", 1, seed=1) for m in "ab"],
        [scored(m, "one", 1) for m in "ab"] + [scored(m, "two", 1, run__eval_limit=5) for m in "ab"],
        [scored(m, t, 1, run__weights="random") for m in "ab" for t in ("one", "two")],
    ],
    ids=["one task", "one common method", "no common seed", "run in other ways", "random weights"],
)
def test_what_cannot_be_ranked_together_is_not(records: list[Record]) -> None:
    assert overall(tables(records), records) == []
