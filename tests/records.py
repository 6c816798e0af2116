"""Records of runs that were never made, for the tests of tables."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from harness.record import METERS, Cell, MetricValue, Record, distribution, scalar, unavailable
from harness.tables.leaderboard import render

OPTIONS: dict[str, Any] = {
    "method": {"slots": 80},
    "task": {"answer": "letter"},
    "train": {"lr": 0.006, "batch_size": 32},
    "run": {"train_limit": None, "eval_limit": None, "precision": "fp32", "device": "cuda:0", "weights": "pretrained"},
    "data": {"sha256": "ab" * 32},
}
CLOCK = iter(range(10_000_000))


def make(
    method: str = "memvp",
    accuracy: float | None = 50.0,
    *,
    step_ms: float = 10.0,
    status: str = "ok",
    reason: str | None = None,
    metrics: dict[str, MetricValue] | None = None,
    provenance: dict[str, Any] | None = None,
    meters: dict[str, Any] | None = None,
    task: str = "scienceqa",
    backbone: str = "mini",
    seed: int = 0,
    **options: Any,
) -> Record:
    """A record; `run__train_limit=5` sets one option. Later calls give later run ids."""
    merged = copy.deepcopy(OPTIONS)
    for name, value in options.items():
        group, _, key = name.partition("__")
        merged[group][key] = value
    done = status == "ok"
    scores = {
        "accuracy": MetricValue(
            value=accuracy,
            unit="%",
            goal="max",
            n=500,
            ci95=(1.0, 99.0),
            reason=None if accuracy is not None else "none",
        ),
        "IMG": MetricValue(value=40.0, unit="%", goal="max", n=1200),
        "NO": MetricValue(value=None, unit="%", goal="max", n=0, reason="no such questions"),
    }
    read: dict[str, Any] = {name: unavailable("not read") for name in METERS}
    read |= {
        "trainable_params": scalar(4_530_432, "params"),
        "total_params": scalar(1_000_000_000, "params"),
        "adapter_bytes": scalar(18_121_728, "bytes"),
        "train_step_ms": distribution([step_ms], "ms"),
        "train_samples_per_s": scalar(32_000 / step_ms, "samples/s"),
        "train_peak_bytes": scalar(40_123_456_789, "bytes"),
    }
    return Record(
        run_id=f"2026-{next(CLOCK):08d}",
        status=status,  # type: ignore[arg-type]
        reason=reason,
        cell=Cell(method=method, task=task, backbone=backbone, seed=seed, options=merged),
        metrics=(scores if metrics is None else metrics) if done else {},
        meters=read | (meters or {}) if done else {},
        provenance=provenance or {},
    )


def json_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """What `leaderboard --format json` holds of each method in each table."""
    return [row for row in json.loads(render(records, format="json")) if row["status"] != "overall"]
