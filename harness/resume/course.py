"""A training as its keeper sees it: where it begins, what is kept between two steps, and how it ends."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.meters.speed import Stopwatch
from harness.resume import randomness
from harness.resume.keeper import Keeper
from harness.resume.loop import Loop
from harness.resume.randomness import Randomness
from harness.resume.training_state import TrainingState

if TYPE_CHECKING:
    from harness.train import TrainResult


@dataclass
class Course:
    """A training from here on; without a keeper nothing is kept, and it begins at the beginning.

    Attributes:
        watch: runs since the training began here.
        check: raises where what is trained is worth nothing any more; it is told how many steps are done, and how a
            message is to end.
        kept: the state that it goes on from.
    """

    loop: Loop
    keeper: Keeper | None
    watch: Stopwatch
    check: Callable[[int, str], None] = field(default=lambda step, last_good: None)
    kept: TrainingState | None = field(init=False)

    def __post_init__(self) -> None:
        self.kept = None if self.keeper is None else self.keeper.latest(self.loop.restore)

    def stepping(self) -> contextlib.AbstractContextManager[None]:
        """In the block a request to stop waits for `between`."""
        return contextlib.nullcontext() if self.keeper is None else self.keeper.stop.stepping()

    def draws(self) -> Randomness | None:
        """The generators before the batch of a step is made; None where nobody keeps them."""
        return None if self.keeper is None else randomness.on_cpu()

    def between(self, result: TrainResult, before: Randomness | None) -> None:
        """Keep the state where it is time to, and leave if that was asked for.

        Args:
            result: of the steps that are done.
            before: what `draws` gave for the step to come.

        Raises:
            KeyboardInterrupt: to leave.
            Exception: what `check` raises.
        """
        if self.keeper is None or before is None:
            return
        if self.keeper.due(len(result.losses), self.loop.nbytes):
            self.check(len(result.losses), self.last_good())
            self.keeper.keep(self._state(result, before, ended=None))
        self.keeper.stop.check()

    def end(self, result: TrainResult) -> None:
        """Fill in how long it took, and name and keep what came of it.

        Raises:
            KeyboardInterrupt, Exception: as `between`.
        """
        result.wall_s = self._wall_s()
        self.check(len(result.losses), self.last_good())
        if self.keeper is None:
            return
        if self.kept is not None and self.kept.ended is not None:
            result.weights = self.kept.ended
        elif self.keeper.stop.requested or self.keeper.worth(self.loop.nbytes, after_s=result.wall_s):
            name = secrets.token_hex(8)
            if self.keeper.keep(self._state(result, randomness.on_cpu(), ended=name)):
                result.weights = name
        self.keeper.stop.check()

    def last_good(self) -> str:
        """Where the last kept state is, to end a message with; nothing where there is none."""
        kept = None if self.keeper is None else self.keeper.newest()
        return "" if kept is None else f"; the last good state is kept in {kept}"

    def _wall_s(self) -> float:
        return (self.kept.wall_s if self.kept else 0.0) + self.watch.ms() / 1e3

    def _state(self, result: TrainResult, before: Randomness, *, ended: str | None) -> TrainingState:
        return self.loop.state(
            before,
            step=len(result.losses),
            losses=list(result.losses),
            step_ms=list(result.step_ms),
            samples=result.samples,
            wall_s=self._wall_s(),
            parts=result.parts,
            cut_at=list(result.cut_at),
            resumed=[] if self.keeper is None else list(self.keeper.resumed),
            ended=ended,
        )
