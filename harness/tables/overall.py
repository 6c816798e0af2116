"""One look over several tasks: the mean rank of each method, seed by seed."""

from __future__ import annotations

import bisect
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.record import Record
from harness.statistics.intervals import SeedSummary, seed_summary
from harness.statistics.significance import ALPHA
from harness.statistics.standing import Standing
from harness.tables.rows import Table


@dataclass(frozen=True)
class Overall:
    """Mean ranks (1 is the best) of the methods that every one of these tables has, best first.

    `ranks` holds the rank in each table, in their order, as means over the seeds that all of them have; `mean` sums
    these up over tables, with its interval over seeds. `chance` are the tables, by title, no two methods of which can
    be told apart.
    """

    backbone: str
    tasks: list[str]
    seeds: list[int]
    ranks: dict[str, list[float]]
    mean: dict[str, SeedSummary]
    chance: list[str]

    def notes(self) -> list[str]:
        """What the ranks are, a sentence each."""
        several = len(self.seeds) > 1
        seeds = f"seed{'s' if several else ''} {', '.join(map(str, self.seeds))}"
        means = f"means over {seeds}, in brackets with their 95 % t interval" if several else seeds
        return [
            f"Ranks by the first score of each table, 1 is the best: {means}.",
            "Ranks do not show how far apart methods are.",
            *(f"In {title} no two methods can be told apart: its ranks are chance." for title in self.chance),
        ]


def overall(tables: Iterable[Table], records: Iterable[Record]) -> list[Overall]:
    """One for each backbone with tables of several tasks that were run in the same way, and two or more methods.

    Of several tables of one task (with other training, say) the one with most methods counts, then that with most
    seeds. Baselines are not ranked, nor are methods with several settings in one table.
    """
    by_id = {record.run_id: record for record in records}
    groups: dict[str, list[Table]] = {}
    for table in tables:
        if table.metrics:
            groups.setdefault(json.dumps([table.backbone, table.common.get("run")], sort_keys=True), []).append(table)
    found = (_overall(group, by_id) for group in groups.values() if len({table.task for table in group}) > 1)
    return [one for one in found if one is not None]


def _overall(group: Sequence[Table], by_id: Mapping[str, Record]) -> Overall | None:
    largest: dict[str, tuple[tuple[int, int], Table, dict[tuple[str, int], float]]] = {}
    for table in group:
        found = _scores(table, by_id)
        size = len({method for method, _ in found}), len({seed for _, seed in found})
        if size[0] > 1 and (table.task not in largest or size > largest[table.task][0]):
            largest[table.task] = size, table, found
    if len(largest) < 2:
        return None
    group, scores = [table for _, table, _ in largest.values()], [found for _, _, found in largest.values()]
    methods = sorted(set.intersection(*({method for method, _ in one} for one in scores)))
    seeds = sorted(
        set.intersection(*({seed for method, seed in one if method == name} for one in scores for name in methods))
        if methods
        else ()
    )
    if len(methods) < 2 or not seeds:
        return None
    ranks = [{seed: _ranks({m: one[m, seed] for m in methods}) for seed in seeds} for one in scores]
    means = {m: seed_summary([statistics.fmean(table[seed][m] for table in ranks) for seed in seeds]) for m in methods}
    mean = {m: _within(summary, len(methods)) for m, summary in means.items()}
    return Overall(
        backbone=group[0].backbone,
        tasks=[table.title for table in group],
        seeds=seeds,
        ranks={m: [statistics.fmean(table[seed][m] for seed in seeds) for table in ranks] for m in methods},
        mean=dict(sorted(mean.items(), key=lambda item: (item[1].mean, item[0]))),
        chance=[table.title for table in group if _is_chance(table.standing)],
    )


def _within(summary: SeedSummary, last: int) -> SeedSummary:
    """Student's t knows no bounds; ranks have them."""
    if summary.ci95 is None:
        return summary
    return replace(summary, ci95=(max(summary.ci95[0], 1.0), min(summary.ci95[1], float(last))))


def _is_chance(standing: Standing | str | None) -> bool:
    return isinstance(standing, Standing) and min(standing.p_values.values()) > ALPHA


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
    ordered = sorted(scores.values())
    return {
        name: (bisect.bisect_left(ordered, score) + bisect.bisect_right(ordered, score) + 1) / 2
        for name, score in scores.items()
    }
