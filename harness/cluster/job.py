"""What a node is told to run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from harness.plan import Plan
from harness.workbench import Ready


@dataclass(frozen=True)
class Job:
    """One cell, and what the driver found of its data and weights.

    Attributes:
        plan: of the one cell, with paths that hold on any machine where the same files lie.
        number: the cell's place in the matrix.
    """

    plan: Plan
    ready: Ready
    number: str
    data_sha256: str
    weights_sha256: str | None


def portable(plan: Plan) -> Plan:
    """The plan with absolute paths: a process on a node has another current folder."""
    spec = plan.backbone
    backbone = dataclasses.replace(
        spec,
        llm=_absolute(spec.llm),
        vision=_absolute(spec.vision),
        encoder=_absolute(spec.encoder),
        tokenizer=_absolute(spec.tokenizer),
    )
    root = None if plan.data_root is None else plan.data_root.absolute()
    return dataclasses.replace(plan, backbone=backbone, data_root=root)


def _absolute(name: str | None) -> str | None:
    """A path, unless it is a Hugging Face id."""
    if name is None or not (path := Path(name).expanduser()).exists():
        return name
    return str(path.absolute())
