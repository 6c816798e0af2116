"""What `run --tune` chooses for each method and task, once for all seeds: found in a record, or searched now.

What it ends with goes into the records of the runs that follow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness import backbones, space, tune
from harness.backbones.backbone import Backbone
from harness.parallel import isolation
from harness.plan import CellPlan, Plan
from harness.prepare import TaskData
from harness.space import Budget, Tuned
from harness.store import Store
from methods.kernels import Kernels

Say = Callable[[str], None]


@dataclass(frozen=True)
class Choices:
    """The tunings of a plan.

    Attributes:
        budget: what each of them may spend.
        model: what they train on, unless each has a process of its own.
        validation: what they are given, by task: the validation split as `evaluation`.
        store: where finished ones are found.
        say: is told what goes on.
    """

    plan: Plan
    budget: Budget
    model: Backbone
    validation: Mapping[str, TaskData]
    store: Store
    say: Say
    _made: dict[str, Tuned] = field(default_factory=dict)

    def announcement(self) -> Iterator[str]:
        """Lines that say what is going to be tried, task by task."""
        late = "" if self.budget.seconds is None else f", none begun after {self.budget.seconds} s"
        for name, data in self.validation.items():
            cells = {cell.method_name: cell for cell in self.plan.cells if cell.task_name == name}
            searched = {method: found for method, cell in cells.items() if (found := space.ranges(cell))}
            steps = {tune.trial_steps(cells[method], data, self.budget) for method in searched}
            each = (
                f"of {' or '.join(map(str, sorted(steps)))} steps, scored on {len(data.evaluation):,} examples of val"
            )
            if searched:
                yield f"tuning on {name}: {self.budget.trials} trials for each method, {each}{late}; searched:"
            yield from (f"  {method}: {', '.join(found)}" for method, found in searched.items())

    def options(self, cell: CellPlan, of: str) -> dict[str, Any]:
        """What identifies a tuning in the options of the runs that follow it; `of` is the key of the cell as it was."""
        told = {"of": of, "validation_sha256": self._data(cell).sha256, "run_off": tune.LONGER}
        return dataclasses.asdict(self.budget) | told

    def made(self, cell: CellPlan, of: str) -> Tuned | None:
        """What was chosen for a cell that is not tuned yet, here or by a recorded run; None where nothing is."""
        if of not in self._made and not self.plan.fresh:
            before = space.recorded(self.store.read(), self.options(cell, of))
            if before is not None:
                self._made[of] = before
        return self._made.get(of)

    def choose(self, cell: CellPlan, of: str, *, label: str) -> Tuned:
        """What was chosen for a cell that is not tuned yet; `of` is its key.

        Raises:
            isolation.ProcessEndedError: the process of its own was killed or raised.
            Exception: see `harness.tune.search`.
        """
        here = of in self._made
        if (chosen := self.made(cell, of)) is None:
            chosen = self._made[of] = self._search(cell, self.options(cell, of), label)
        elif not here:
            self.say(f"{label}: kept what was chosen before")
        return chosen

    def _search(self, cell: CellPlan, options: dict[str, Any], label: str) -> Tuned:
        if self.plan.isolate:
            alone = self.plan.alone(cell)
            report = isolation.apart(_search_alone, alone, self.budget, self._data(cell), label, self.say)
            if report is None:
                raise KeyboardInterrupt
        else:
            report = _search_on(self.model, cell, self.plan, self.budget, self._data(cell), label, self.say)
        return Tuned(options, report["values"], report)

    def _data(self, cell: CellPlan) -> TaskData:
        return self.validation[cell.task_name]


def _search_alone(plan: Plan, budget: Budget, data: TaskData, label: str, say: Say) -> dict[str, Any] | None:
    """As `_search_on`, for the only cell of a plan and on a backbone of its own; None if Ctrl-C ended it."""
    [cell] = plan.cells
    try:
        model = backbones.load(plan.backbone, device=plan.device, precision=plan.precision)
        return _search_on(model, cell, plan, budget, data, label, say)
    except KeyboardInterrupt:
        return None


def _search_on(
    model: Backbone, cell: CellPlan, plan: Plan, budget: Budget, data: TaskData, label: str, say: Say
) -> dict[str, Any]:
    model.kernels = Kernels(plan.kernels)
    return tune.search(model, cell, plan, budget, data, label=label, say=say)
