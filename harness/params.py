"""Exact parameter counts of methods on a backbone, on the meta device: no weights are allocated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from harness import backbones
from methods import Method


def report(
    methods: Sequence[tuple[str, Method]], *, backbone: str, llm: str | None, vision: str | None, format: str
) -> str:
    """Trainable and total parameters of each method, as a Markdown table or as JSON keyed by method.

    Raises:
        BackboneError: the backbone cannot be read.
    """
    rows = count(methods, backbone=backbone, llm=llm, vision=vision)
    if format == "json":
        return json.dumps({row["method"]: row for row in rows}, indent=2)
    from tabulate import tabulate

    shown = [
        [
            row["method"],
            _number(row["trainable_params"]),
            _percent(row),
            _number(row["total_params"]),
            row["reason"] or "",
        ]
        for row in rows
    ]
    headers = ["Method", "Trainable", "%", "Total", "Skipped because"]
    align = ("left", "right", "right", "right", "left")
    return tabulate(shown, headers=headers, tablefmt="github", colalign=align, disable_numparse=True)


def count(
    methods: Sequence[tuple[str, Method]], *, backbone: str, llm: str | None, vision: str | None
) -> list[dict[str, Any]]:
    """One row per method: `method`, `trainable_params`, `total_params`, and the `reason` where it cannot run.

    Raises:
        BackboneError: the backbone cannot be read.
    """
    model = backbones.load(backbones.BackboneSpec(backbone, llm, vision, "random"), device="meta")
    own = sum(parameter.numel() for parameter in model.parameters())
    rows = []
    for name, method in methods:
        row: dict[str, Any] = {"method": name, "trainable_params": None, "total_params": None}
        row["reason"] = method.unmet(model)
        if row["reason"] is None:
            attachment = method.attach(model, seed=0)
            row["trainable_params"] = sum(parameter.numel() for parameter in attachment.parameters())
            row["total_params"] = own + row["trainable_params"]
            attachment.detach()
        rows.append(row)
    return rows


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _percent(row: dict[str, Any]) -> str:
    return "–" if row["total_params"] is None else f"{100 * row['trainable_params'] / row['total_params']:.3f}"
