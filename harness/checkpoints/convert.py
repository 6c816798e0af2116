"""Between the authors' formats and ours: reads, holds every tensor against the method, and writes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from harness import backbones, checkpoints, settings
from harness.backbones.backbone import Backbone
from harness.backbones.beit3.checkpoint import HEAD as HEADS
from harness.checkpoints import CheckpointError, Foreign, own, reading, writing
from harness.settings import UsageError
from methods import Method
from tasks.io.contrast import Heads

logger = logging.getLogger(__name__)


def import_(
    format: str,
    source: Path,
    out: Path,
    *,
    method: Method,
    backbone: backbones.BackboneSpec,
    explicit: Collection[str] = (),
) -> None:
    """Write a checkpoint of another format (any but `llama`) as a folder of ours.

    Args:
        format: one of `checkpoints.names()`.
        source: its file or folder.
        out: a new or empty folder.
        method: the format's method with its fields; those that the checkpoint itself names are taken from there.
        backbone: what the method was trained on; only its shapes are looked at.
        explicit: fields of the method that the user has set, which the checkpoint must not contradict.

    Raises:
        CheckpointError: a file that cannot be used, tensors that do not fit the method on the backbone, a method that
            the backbone cannot take, a place that cannot be written.
        UsageError: a field that the checkpoint contradicts or the method refuses.
        BackboneError: the backbone cannot be read.
    """
    writing.check_new_folder(out)
    name = checkpoints.method_of(format)
    found = checkpoints.module_of(format).read(source)
    method = _with_fields(method, found, name, explicit, source)
    model = backbones.load(dataclasses.replace(backbone, weights="random", encoder=None), device="meta")
    if (reason := method.unmet(model)) is not None:
        raise CheckpointError(f"{source}: method {name} cannot be on {model.name}: {reason}; name another --backbone")
    expected = _expected(method, model, source)
    made = {} if found.complete is None else found.complete(method, model)
    state = {**found.state, **made}
    own.fit(state, expected, where=f"{source}: for {name} on {model.name}", head=_head(model, state))
    note = f"imported from {source.name} (format {format}, sha256 {reading.sha256(source)})"
    said = found.note if made or found.complete is None else ""
    note += f"; {said}" if said else ""
    own.save(out, method_name=name, method=method, state=state, backbone=model.name, note=note)
    if said:
        logger.warning("%s: %s", source, said)


def export(format: str, source: Path, out: Path, *, without_head: bool = False) -> None:
    """Write a folder of ours in another format (any but `llama`), `without_head` less the tensors of a task's head.

    Raises:
        CheckpointError: no folder of ours, one of another method, a place that is taken or cannot be written.
    """
    saved = own.load(source)
    if saved.method_name != (wanted := checkpoints.method_of(format)):
        fitting = [name for name in checkpoints.names() if name != checkpoints.LLAMA]
        fitting = [name for name in fitting if checkpoints.method_of(name) == saved.method_name]
        hint = f"take --format {fitting[0]}" if fitting else "no format has it"
        raise CheckpointError(f"{source}: holds method {saved.method_name}, but {format} is for {wanted}; {hint}")
    if without_head:
        kept = {name: tensor for name, tensor in saved.state.items() if not name.startswith(own.HEAD)}
        saved = dataclasses.replace(saved, state=kept)
    checkpoints.module_of(format).write(saved, out)


def _head(model: Backbone, state: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
    """Where the checkpoint has a head of retrieval: one on the backbone, into a space as wide as that one's."""
    if not {own.HEAD + name for name in HEADS} & set(state):
        return None
    found = state.get(f"{own.HEAD}vision_head.weight")
    width = len(found) if found is not None and found.ndim and found.numel() else model.contrast_width
    heads = model.build(lambda: Heads(model.embed_width, width, temperature=1.0), seed=0)
    return heads.state_dict()


def _with_fields(method: Method, found: Foreign, name: str, explicit: Collection[str], source: Path) -> Method:
    """The method with the fields that the checkpoint names."""
    fields = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    said = settings.read(type(method), found.fields, where=f"{source}: {name}.")
    for field, value in said.items():
        if field in explicit and fields[field] != value:
            raise UsageError(f"--set {name}.{field}: {source} says {value!r}; drop this --set")
    return settings.make(type(method), fields | said, scope=f"{source}: {name}")


def _expected(method: Method, model: Backbone, source: Path) -> Mapping[str, Tensor]:
    try:
        attachment = method.attach(model, seed=0)
    except (RuntimeError, OverflowError, TypeError) as error:  # of sizes that no tensor can have
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{source}: {method} cannot be on {model.name} ({reason}); correct its sizes") from error
    try:
        return attachment.state_dict()
    finally:
        attachment.detach()
