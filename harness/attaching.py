"""A cell ready to be trained or asked: its method plugged into the backbone, and the accelerator it runs on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from harness.backbones.backbone import Backbone
from harness.checkpoints import own
from harness.plan import CellPlan, Plan
from methods import Attachment, Handle, Method
from tasks import Task


@contextlib.contextmanager
def attached(model: Backbone, cell: CellPlan) -> Iterator[Attachment]:
    """The cell's method on the backbone, with the task's own parameters and the checkpoint that training starts from.

    The backbone is given back whatever happens.
    """
    attachment = cell.method.attach(model, cell.seed)
    try:
        attachment.keep(use_head(model, cell.method, cell.task, seed=cell.seed))
        if cell.init is not None:
            _restore(model, attachment, cell.init)
        yield attachment
    finally:
        attachment.detach()


def use_head(model: Backbone, method: Method, task: Task, *, seed: int) -> Handle:
    """Offer the task's own parameters as `model.head`, those of them trainable that training with the method changes.

    New ones are trained by every method that trains, those of the backbone's own checkpoint by some.
    """
    handle = model.use_head(lambda: task.head(model), seed=seed)
    if model.head is not None and not method.trains:
        model.head.requires_grad_(False)
    elif model.head is not None and model.native_head is not None and method.trains_native_head():
        model.head.requires_grad_(True)
    return handle


def new_accelerator(plan: Plan) -> Accelerator:
    """A fresh one, to be made for each training: accelerate keeps its state in a process-wide singleton."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = plan.device
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    precision = "no" if plan.precision == "fp32" else plan.precision
    return Accelerator(cpu=plan.device == "cpu", mixed_precision=precision)


def _restore(model: Backbone, attachment: Attachment, init: own.Saved) -> None:
    """Load a checkpoint into the method and, where it holds them, into the task's own parameters."""
    head = {name.removeprefix(own.HEAD): t for name, t in init.state.items() if name.startswith(own.HEAD)}
    attachment.load_state_dict({name: t for name, t in init.state.items() if not name.startswith(own.HEAD)})
    if head and model.head is not None:
        model.head.load_state_dict(head)
