"""From a cell that ended to its files: the record with its provenance, and what was trained."""

from __future__ import annotations

import contextlib
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import provenance
from harness.checkpoints import own
from harness.plan import CellPlan
from harness.record import Cell, Record, new_run_id, scalar
from harness.statistics import example_scores
from harness.store import folder_name, run_ids
from harness.tensorboard import Board
from harness.workbench import Bench, Ending, Ready, identity, say, say_taken_over, title


def append(
    bench: Bench,
    plan: CellPlan,
    ready: Ready,
    started: datetime,
    number: str,
    ending: Ending,
    *,
    board: Board | None = None,
) -> str:
    """Write what a cell trained and its predictions, then its record. Returns the status.

    Raises:
        harness.store.StoreError, harness.checkpoints.CheckpointError: they cannot be written.
    """
    made, label, outcome = identity(bench, plan), title(bench, plan, number), ending.outcome
    if bench.title is not None and not bench.title.held():
        say_taken_over(label)
        return "elsewhere"
    record = Record(
        run_id=new_run_id(made, started),
        status=ending.status,
        reason=ending.reason,
        traceback=ending.traceback,
        cell=made,
        metrics=outcome.metrics if outcome else {},
        meters={**outcome.meters, "load_wall_s": scalar(bench.load_wall_s, "s")} if outcome else {},
        provenance=_provenance(bench, plan, ready, started)
        | ({"gpu_sharing": outcome.gpu_sharing} if outcome and outcome.gpu_sharing else {})
        | ({"out_of_memory": outcome.cut} if outcome and any(outcome.cut.values()) else {})
        | ({"resumed_at_steps": list(ending.resumed)} if ending.resumed else {}),
    )
    folder = saved(bench, record)
    if outcome is not None and outcome.state:
        # Before the record, with which the cell counts as done and what is kept of it goes.
        own.save(
            folder,
            method_name=plan.method_name,
            method=plan.method,
            state=outcome.state,
            backbone=bench.model.name,
            note=f"run {record.run_id}",
        )
    predictions = example_scores.rows(outcome.predictions, ending.parts) if outcome else None
    path = bench.store.append(record, predictions, samples=outcome.samples if outcome else None)
    say(f"{label}: {headline(record)} -> {path}")
    if board is not None:
        board.end(record)
    if outcome and outcome.gpu_sharing and (others := outcome.gpu_sharing["others"]):
        say(f"{label}: {len(others)} other processes used the same GPU, so its times are not this run's alone")
    if outcome is not None and outcome.state:
        say(f"{label}: what was trained -> {folder}")
    return ending.status


def saved(bench: Bench, record: Record) -> Path:
    """Where what a run trained lies, if the plan asked to save it."""
    return _place(bench, "adapters", record.cell) / record.run_id


def _place(bench: Bench, top: str, cell: Cell) -> Path:
    return bench.plan.results.joinpath(top, *map(folder_name, (cell.backbone, cell.task, cell.method)))


def sweep(bench: Bench, plan: CellPlan) -> None:
    """Remove what a process that was killed while it recorded this cell, whose claim is ours now, has left behind.

    What it had saved goes too where this run saves it again.
    """
    made = identity(bench, plan)
    bench.store.sweep(made)
    runs, half = re.compile(run_ids(made)), re.compile(rf"\.{run_ids(made)}\.\w+\.tmp")
    recorded = {path.stem for path in _place(bench, "runs", made).glob("*.json")}
    with contextlib.suppress(FileNotFoundError):
        for path in _place(bench, "adapters", made).iterdir():
            orphan = bench.plan.save and runs.fullmatch(path.name) and path.name not in recorded
            if orphan or half.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)


def _provenance(bench: Bench, plan: CellPlan, ready: Ready, started: datetime) -> dict[str, Any]:
    data = bench.data[plan.task_name]
    cut = ready.overlong.train + ready.overlong.evaluation if ready.overlong else 0
    sometimes = {
        "tuning": None if plan.tuned is None else plan.tuned.report,
        "memory_limit_gib": bench.plan.memory_gib,
    }
    return provenance.collect(
        argv=bench.plan.argv,
        device=bench.plan.device,
        precision=bench.plan.precision,
        isolated=bench.plan.isolate,
        kernels=", ".join(sorted(bench.model.kernels.ran)) or "none",
        data={"root": str(data.root), "sha256": data.sha256, "prompts_cut": cut},
        weights={"sha256": bench.weights_sha256},
        code=ready.code,
        started=started,
        ended=datetime.now(UTC),
    ) | {name: value for name, value in sometimes.items() if value}


def headline(record: Record) -> str:
    """What a record says in a few words: its first score and its pace, or why there is none."""
    if record.status != "ok":
        return f"{record.status}: {record.reason}"
    name, score = next(iter(record.metrics.items()))
    value = (
        "no value"
        if score.value is None
        else f"{score.value:.2f}{score.unit if score.unit == '%' else ' ' + score.unit}"
    )
    step = record.meters["train_step_ms"]
    pace = f", {step.median:.1f} ms per step" if hasattr(step, "median") else ""
    return f"{name} {value}{pace}"
