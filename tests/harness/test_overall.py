"""Mean ranks over several tasks."""

from __future__ import annotations

import pytest

from harness.leaderboard import markdown
from harness.overall import overall
from harness.record import MetricValue, Record
from harness.tables import tables
from tests.harness.test_leaderboard import make, parsed


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
    assert found.mean["b"].sd == pytest.approx(0.5**1.5)  # of 1.5 and 2


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
