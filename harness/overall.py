"""One look over several tasks: the mean rank of each method, seed by seed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.record import Record
from harness.stats import SeedSummary, seed_summary
from harness.tables import Table


@dataclass(frozen=True)
class Overall:
    """Mean ranks (1 is the best) of the methods that every one of these tables has, best first.

    `ranks` holds the rank in each table, in their order, as means over the seeds that all of them have; `mean` sums
    these up over tables, with its interval over seeds.
    """

    backbone: str
    tasks: list[str]
    seeds: list[int]
    ranks: dict[str, list[float]]
    mean: dict[str, SeedSummary]


def overall(tables: Iterable[Table], records: Iterable[Record]) -> list[Overall]:
    """One for each backbone with tables of several tasks that were run in the same way, and two or more methods.

    Baselines are not ranked, nor are methods with several settings in one table.
    """
    by_id = {record.run_id: record for record in records}
    groups: dict[str, list[Table]] = {}
    for table in tables:
        if table.metrics:
            groups.setdefault(json.dumps([table.backbone, table.common.get("run")], sort_keys=True), []).append(table)
    found = (_overall(group, by_id) for group in groups.values() if len({table.task for table in group}) > 1)
    return [one for one in found if one is not None]


def _overall(group: Sequence[Table], by_id: Mapping[str, Record]) -> Overall | None:
    scores = [_scores(table, by_id) for table in group]
    methods = sorted(set.intersection(*({method for method, _ in one} for one in scores)))
    seeds = sorted(
        set.intersection(*({seed for method, seed in one if method == name} for one in scores for name in methods))
        if methods
        else ()
    )
    if len(methods) < 2 or not seeds:
        return None
    ranks = [{seed: _ranks({m: one[m, seed] for m in methods}) for seed in seeds} for one in scores]
    mean = {m: seed_summary([statistics.fmean(table[seed][m] for table in ranks) for seed in seeds]) for m in methods}
    return Overall(
        backbone=group[0].backbone,
        tasks=[table.title for table in group],
        seeds=seeds,
        ranks={m: [statistics.fmean(table[seed][m] for seed in seeds) for table in ranks] for m in methods},
        mean=dict(sorted(mean.items(), key=lambda item: (item[1].mean, item[0]))),
    )


def _scores(table: Table, by_id: Mapping[str, Record]) -> dict[tuple[str, int], float]:
    """The primary score by method and seed, less where it is better."""
    name, metric = next(iter(table.metrics.items()))
    sign = -1 if metric.goal == "max" else 1
    labels = [row.method for row in table.rows if not row.baseline]
    found = {}
    for row in table.rows:
        for run in row.runs if row.method in labels else ():
            record = by_id[run]
            value = record.metrics[name].value if name in record.metrics else None
            if value is not None and row.values.get(name) is not None:
                found[row.method, record.cell.seed] = sign * value
    return found


def _ranks(scores: Mapping[str, float]) -> dict[str, float]:
    """1 for the least; equal scores share the mean of their ranks."""
    from scipy.stats import rankdata

    return dict(zip(scores, map(float, rankdata(list(scores.values()))), strict=True))
