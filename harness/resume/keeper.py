"""What is kept of a cell that is not finished: the training state now and then, and the answers as they are made."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from harness.backbones import FEATURES, cache_folder, features
from harness.resume import training_state
from harness.resume.answers import KeptAnswers
from harness.resume.every import Every
from harness.resume.stop import Stop
from harness.resume.training_state import StateError, TrainingState
from tasks import Task

FOLDER = "unfinished"
"""Below the results: a folder for each unfinished cell, by its key."""
MOST_SHARE = 0.02
"""Of the time since the last state was written, what writing the next one may take."""
BYTES_PER_S = 2e8
"""How fast a first state is taken to be written."""

_STATE = re.compile(r"training-(\d{8})")


@dataclass
class Keeper:
    """Keeps one cell.

    Attributes:
        folder: of this cell alone.
        belongs: what a kept state is good for: the cell, the code and the libraries.
        every: how often.
        say: is told what goes wrong, and where a cell goes on.
        stop: asked between steps whether to leave.
        resumed: the steps at which the training went on from a kept state.
    """

    folder: Path
    belongs: Mapping[str, Any]
    every: Every
    say: Callable[[str], None]
    stop: Stop = field(default_factory=Stop)
    resumed: list[int] = field(default_factory=list)
    _kept_step: int | None = None
    _kept_at: float = field(default_factory=lambda: time.monotonic())
    _cost_s: float | None = None

    def latest(self, restore: Callable[[TrainingState], None] = lambda state: None) -> TrainingState | None:
        """The last whole state, restored; what cannot be used is said and passed over.

        Args:
            restore: raises StateError, with everything as it was, for a state that it cannot use.
        """
        for _, folder in reversed(self._states()):
            try:
                state = training_state.read(folder, self.belongs)
            except StateError as error:
                self.say(f"not continued: {error}")
                continue
            try:
                restore(state)
            except StateError as error:
                self.say(f"not continued: {folder}: {error}")
                continue
            self._kept_step = state.step
            self.resumed = [*state.resumed, state.step]
            self._kept_at = time.monotonic()
            self.say(f"goes on from step {state.step}, kept in {folder}")
            return state
        return None

    def due(self, step: int, nbytes: int) -> bool:
        """Whether the state after `step` steps, of about so many bytes, is to be kept now."""
        if step == self._kept_step or not step:
            return False
        steps = self.every.steps is not None and step - (self._kept_step or 0) >= self.every.steps
        minutes = time.monotonic() - self._kept_at >= 60 * self.every.minutes
        return self.stop.requested or ((steps or minutes) and self.worth(nbytes))

    def worth(self, nbytes: int, *, after_s: float | None = None) -> bool:
        """Whether writing so many bytes takes a small share of `after_s`, or of the time since a state was written."""
        cost = nbytes / BYTES_PER_S if self._cost_s is None else self._cost_s
        return cost <= MOST_SHARE * (time.monotonic() - self._kept_at if after_s is None else after_s)

    def keep(self, state: TrainingState) -> bool:
        """Write a state, then drop those before it. Where that fails it is said, and the training goes on."""
        started, name = time.monotonic(), f"training-{state.step:08d}"
        folder = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if folder.exists():  # without its end, or of a state that could not be used
                shutil.rmtree(folder)
            training_state.write(folder, state, self.belongs)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            self.say(f"{folder}: the training state cannot be kept ({reason}); the training goes on")
            kept = False
        else:
            self._kept_step, kept = state.step, True
            for _, older in self._states():
                if older.name != name:
                    shutil.rmtree(older, ignore_errors=True)
        self._kept_at = time.monotonic()
        self._cost_s = self._kept_at - started
        return kept

    def answers(self, weights: str, task: Task) -> KeptAnswers:
        """The answers of the weights that go by this name (`TrainingState.ended`), kept as they are made."""
        return KeptAnswers(self.folder / "answers.jsonl", {**self.belongs, "weights": weights}, task, self.say)

    def newest(self) -> Path | None:
        """The folder of the last state."""
        return next((folder for _, folder in reversed(self._states())), None)

    @property
    def kept_step(self) -> int | None:
        """The step of the last state that was kept or gone on from; None where there is none."""
        return self._kept_step

    @property
    def features(self) -> str:
        """The name of the features that are kept for this training: of this cell in these results, code and libraries.

        Features lie in the cache, which all results folders and versions of the code share.
        """
        belongs = json.dumps(dict(self.belongs), sort_keys=True)
        return f"{self._place}{features.OF}{hashlib.sha256(belongs.encode()).hexdigest()[:32]}"

    def forget(self) -> None:
        """Remove everything: the cell is recorded, or is to begin anew."""
        shutil.rmtree(self.folder, ignore_errors=True)
        features.discard(cache_folder() / FEATURES, self._place)

    @property
    def _place(self) -> str:
        return hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:32]

    def _states(self) -> list[tuple[int, Path]]:
        """Whole ones and damaged ones, by step."""
        if not self.folder.is_dir():
            return []
        matches = ((_STATE.fullmatch(path.name), path) for path in self.folder.iterdir())
        return sorted((int(match[1]), path) for match, path in matches if match)
