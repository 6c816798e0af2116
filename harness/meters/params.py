"""Exact parameter counts of methods on a backbone, on the meta device: no weights are allocated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness import backbones
from harness.attaching import use_head
from harness.backbones.backbone import Backbone
from harness.train import trained_parameters
from methods import Attachment, Method
from tasks import Task


@dataclass(frozen=True)
class Sizes:
    """Parameters of a method attached to a backbone: `trainable` includes `task`, those of the task's own head."""

    trainable: int
    task: int
    total: int


def sizes(model: Backbone, attachment: Attachment) -> Sizes:
    """Count what training changes, and everything there is, each parameter once."""
    trained = trained_parameters(model, attachment)
    # By identity: full fine-tuning trains the backbone's own, and peft's lie within the backbone.
    every = {id(p): p.numel() for p in (*model.parameters(), *attachment.module.parameters(), *trained.values())}
    return Sizes(
        trainable=sum(p.numel() for p in trained.values()),
        task=sum(p.numel() for name, p in trained.items() if name.startswith("head.")),
        total=sum(every.values()),
    )


def report(
    methods: Sequence[tuple[str, Method]], spec: backbones.BackboneSpec, *, task: Task | None, format: str
) -> str:
    """Trainable and total parameters of each method, as a Markdown table or as JSON keyed by method.

    Raises:
        BackboneError: the backbone cannot be read.
    """
    rows = count(methods, spec, task=task)
    if format == "json":
        return json.dumps({row["method"]: row for row in rows}, indent=2)
    from tabulate import tabulate

    columns: dict[str, list[str]] = {
        "Method": [row["method"] for row in rows],
        "Trainable": [_number(row["trainable_params"]) for row in rows],
        "%": [_percent(row) for row in rows],
        "Of it the task's": [_number(row["task_params"]) for row in rows],
        "Total": [_number(row["total_params"]) for row in rows],
        "Skipped because": [row["reason"] or "" for row in rows],
    }
    if task is None:
        del columns["Of it the task's"]
    if not any(columns["Skipped because"]):
        del columns["Skipped because"]
    align = ["left" if name in ("Method", "Skipped because") else "right" for name in columns]
    return tabulate(columns, headers="keys", tablefmt="github", colalign=align, disable_numparse=True)


def count(
    methods: Sequence[tuple[str, Method]], spec: backbones.BackboneSpec, *, task: Task | None = None
) -> list[dict[str, Any]]:
    """One row per method: `method`, `trainable_params`, `task_params`, `total_params`, or why it cannot run (`reason`).

    With a task its own parameters (new heads) are trainable ones too.

    Raises:
        BackboneError: the backbone cannot be read.
    """
    model = backbones.load(spec, device="meta")
    rows = []
    for name, method in methods:
        row: dict[str, Any] = {"method": name, "trainable_params": None, "task_params": None, "total_params": None}
        row["reason"] = method.unmet(model)
        if row["reason"] is None:
            attachment = method.attach(model, seed=0)
            if task is not None:
                attachment.keep(use_head(model, method, task, seed=0))
            found = sizes(model, attachment)
            row |= {"trainable_params": found.trainable, "task_params": found.task, "total_params": found.total}
            attachment.detach()
        rows.append(row)
    return rows


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _percent(row: dict[str, Any]) -> str:
    return "–" if row["total_params"] is None else f"{100 * row['trainable_params'] / row['total_params']:.3f}"
