"""`bench upkeep`: what it costs that nothing is lost: records, claims, and the state of a training."""

from __future__ import annotations

import dataclasses
import functools
import random
import secrets
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from harness.bench.overhead import Clock, train_on_one_batch
from harness.bench.result import Case, Row, below
from harness.record import METERS, Cell, MetricValue, Record, distribution, unavailable
from harness.resume import randomness
from harness.resume.claims import Claim, Claims
from harness.resume.every import Every
from harness.resume.keeper import Keeper
from harness.resume.training_state import TrainingState
from harness.store import Store

EXAMPLES = 4241
"""Of ScienceQA's test split: as many predictions are written with a record."""
CELLS, APPENDS, STEPS = 10_000, 30, 100
EVERY = Every(minutes=1 / 60)
"""Sixty times as often as by default."""


@dataclasses.dataclass
class _TimedKeeper(Keeper):
    """A keeper with a clock on all that it does between steps."""

    clock: Clock = dataclasses.field(default_factory=Clock)
    keeps_ms: list[float] = dataclasses.field(default_factory=list)

    def due(self, step: int, nbytes: int) -> bool:
        return self.clock.around(super().due)(step, nbytes)

    def keep(self, state: TrainingState) -> bool:
        before_s = self.clock.spent_s
        kept = self.clock.around(super().keep)(state)
        self.keeps_ms.append((self.clock.spent_s - before_s) * 1e3)
        return kept


def run(device: torch.device, *, reduced: bool) -> list[Case]:
    """Measure on the disk of the temporary folder."""
    with tempfile.TemporaryDirectory(prefix="vltune-bench-") as folder:
        root = Path(folder)
        return [_records(root, reduced=reduced), _claims(root, reduced=reduced), _states(root, device, reduced=reduced)]


def _records(root: Path, *, reduced: bool) -> Case:
    count, examples = (3, 10) if reduced else (APPENDS, EXAMPLES)
    store, chance = Store(root / "records"), random.Random(0)
    rows = [{"id": str(i), "output": chance.choice("ABCD"), "choice": i % 4} for i in range(examples)]
    times = [_ms(functools.partial(store.append, _record(number), rows)) for number in range(count)]
    row = _row("append a record with its predictions", times)
    goals = [] if reduced else [below("append of a record", row.ms["median"], 20, "ms")]
    return Case("the store", {"predictions": examples, "records": count}, [row], goals)


def _record(seed: int) -> Record:
    return Record(
        run_id=f"bench-{seed:06d}-{secrets.token_hex(3)}",
        status="ok",
        cell=Cell(method="frozen", task="scienceqa", backbone="bench", seed=seed, options={}, explicit={}),
        metrics={"accuracy": MetricValue(value=50.0, unit="%", goal="max", n=EXAMPLES)},
        meters=dict.fromkeys(METERS, unavailable("nothing is measured")),
        provenance={},
    )


def _claims(root: Path, *, reduced: bool) -> Case:
    count, claims = (20 if reduced else CELLS), Claims(root)
    times = [_ms(functools.partial(_claim, claims, f"{number:064x}")) for number in range(count)]
    goals = [] if reduced else [below("claims of 10,000 cells", sum(times) / 1e3, 30, "s")]
    return Case("claims", {"cells": count}, [_row("claim a cell and release it", times)], goals)


def _claim(claims: Claims, key: str) -> None:
    claim = claims.take(key)
    if not isinstance(claim, Claim):
        raise RuntimeError(f"cell {key} is claimed by {claim}")
    claim.release()


def _states(root: Path, device: torch.device, *, reduced: bool) -> Case:
    """Train `mini` on one batch, and see what share of that the bookkeeping has."""
    steps = 3 if reduced else STEPS
    keeper = _TimedKeeper(root / "state", {}, Every(steps=1) if reduced else EVERY, lambda line: None)
    notes = [_ms(randomness.on_cpu) for _ in range(steps)]
    accelerator = Accelerator(cpu=device.type == "cpu")
    result, said = train_on_one_batch(device, steps=steps, accelerator=accelerator, clock=Clock(), keeper=keeper)
    share = 100 * (keeper.clock.spent_s + sum(notes) / 1e3) / result.wall_s
    goals = [] if reduced else [below("resume bookkeeping in a training", share, 2, "%")]
    said |= {"a state": "every second at most"}
    times = {
        "training step": result.step_ms,
        "note the generators before a step": notes,
        "keep a state": keeper.keeps_ms,
    }
    rows = [_row(name, found) for name, found in times.items() if found]
    return Case("the state of a training", said, rows, goals)


def _ms(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1e3


def _row(name: str, times: list[float]) -> Row:
    return Row(name, distribution(times, "ms").model_dump(), unavailable("not read").model_dump())
