"""How far a running matrix is: how many cells ended how, and about how long the others will take."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from harness import space
from harness.plan import Plan


@dataclass(frozen=True)
class Kind:
    """What decides how long a cell takes. `work`: it is tuned and trained, trained, or only evaluated."""

    task: str
    method: str
    work: Literal["tune", "train", "evaluate"]


@dataclass(frozen=True)
class Ended:
    """A cell that ended; `seconds` it took, None where that says nothing about others because it was kept."""

    kind: Kind
    status: str
    seconds: float | None


class Outlook:
    """The cells of a matrix while they are run one after the other; as text, one line that sums them up.

    Args:
        kinds: of all cells, in their order.
        short: which of them take no time, because they are recorded already or to be skipped.
    """

    def __init__(self, kinds: Sequence[Kind], short: Sequence[bool]) -> None:
        self._kinds = kinds
        self._short = short
        self._ended: list[Ended] = []

    def end(self, status: str, seconds: float | None) -> None:
        """The next cell has ended; `seconds` as in `Ended`."""
        self._ended.append(Ended(self._kinds[len(self._ended)], status, seconds))

    def __str__(self) -> str:
        coming = zip(self._kinds[len(self._ended) :], self._short[len(self._ended) :], strict=True)
        waiting = [kind for kind, short in coming if not short]
        # One follows the other.
        return summary(self._ended, waiting, total=len(self._kinds), running=min(1, len(waiting)))


def kinds(plan: Plan) -> list[Kind]:
    """The kind of each cell of a plan; what the first seed of a method tunes, the other seeds share."""
    found, tuned = [], set[tuple[str, str]]()
    for cell in plan.cells:
        pair = (cell.task_name, cell.method_name)
        tunes = plan.tuning is not None and pair not in tuned and bool(space.ranges(cell))
        trains = cell.method.trains and cell.train.steps != 0
        found.append(Kind(*pair, "tune" if tunes else "train" if trains else "evaluate"))
        tuned.add(pair)
    return found


def summary(ended: Sequence[Ended], waiting: Sequence[Kind], *, total: int, running: int = 0, at_once: int = 1) -> str:
    """One line on `total` cells; those in `waiting` are still to be run (and neither recorded nor to be skipped).

    `running`: how many of these have begun. `at_once`: how many are run side by side.
    """
    counts = {status: sum(cell.status == status for cell in ended) for status in ("ok", "failed", "skipped")}
    said = [f"{counts['ok']} of {total} done"]
    said += [f"{counts[status]} {status}" for status in ("failed", "skipped") if counts[status]]
    said += [f"{running} running"] if running else []
    left = seconds_left(ended, waiting)
    return ", ".join(said) + (f"; about {_duration(left / at_once)} left" if left else "")


def seconds_left(ended: Sequence[Ended], waiting: Sequence[Kind]) -> float | None:
    """The time of all cells to come, each as long as the mean of those like it; None if some are like none so far.

    Like it are the finished cells of its task and method; while there are none those of its task; else those of any
    task. All of them do the same work.
    """
    # Of a kind at a time: there are few kinds among thousands of cells.
    each = [(_expected(ended, kind), count) for kind, count in Counter(waiting).items()]
    known = [seconds * count for seconds, count in each if seconds is not None]
    return sum(known) if len(known) == len(each) else None


def _expected(ended: Sequence[Ended], kind: Kind) -> float | None:
    likeness: tuple[Callable[[Kind], bool], ...] = (
        lambda other: (other.task, other.method) == (kind.task, kind.method),
        lambda other: other.task == kind.task,
        lambda _: True,
    )
    # A cell that failed ended early.
    told = [(cell.kind, cell.seconds) for cell in ended if cell.status == "ok" and cell.seconds is not None]
    for is_like in likeness:
        if like := [seconds for other, seconds in told if other.work == kind.work and is_like(other)]:
            return statistics.fmean(like)
    return None


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
