"""From a cell that ended to its files: the record with its provenance, and what was trained."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from harness import example_scores, provenance
from harness.checkpoints import own
from harness.plan import CellPlan
from harness.record import Record, new_run_id, scalar
from harness.tensorboard import Board
from harness.workbench import Bench, Ending, Ready, identity, say, title


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
    """Write the record of a cell, its predictions and what it trained. Returns the status."""
    made, label, outcome = identity(bench, plan), title(bench, plan, number), ending.outcome
    if bench.title is not None and not bench.title.held():
        say(f"{label}: not recorded: this machine was silent for long, and another process took the run over")
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
    predictions = example_scores.rows(outcome.predictions, ending.parts) if outcome else None
    path = bench.store.append(record, predictions, samples=outcome.samples if outcome else None)
    say(f"{label}: {headline(record)} -> {path}")
    if board is not None:
        board.end(record)
    if outcome and outcome.gpu_sharing and (others := outcome.gpu_sharing["others"]):
        say(f"{label}: {len(others)} other processes used the same GPU, so its times are not this run's alone")
    if outcome is not None and outcome.state:
        folder = bench.plan.results / "adapters" / path.relative_to(bench.plan.results / "runs").with_suffix("")
        own.save(
            folder,
            method_name=plan.method_name,
            method=plan.method,
            state=outcome.state,
            backbone=bench.model.name,
            note=f"run {record.run_id}",
        )
        say(f"{label}: what was trained -> {folder}")
    return ending.status


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
