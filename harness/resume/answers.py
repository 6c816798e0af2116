"""Predictions kept as they are made: a line of JSON for each batch, so that an evaluation goes on where it was."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import os
import secrets
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from tasks import Prediction, Task

_TENSOR = "tensor"
# What a line of another program, whose checksum is right, may lead to.
_UNUSABLE = (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError)


class KeptAnswers:
    """The batches of one evaluation; each line ends in a checksum, which tells what was cut by a crash.

    Attributes:
        used: how many batches of an earlier process were asked for.

    Args:
        path: the file; what it holds of other weights is dropped.
        belongs: whose answers they are: the cell, the code and the weights.
        task: whose predictions they are.
        say: is told where they cannot be kept.
    """

    def __init__(self, path: Path, belongs: Mapping[str, Any], task: Task, say: Callable[[str], None]) -> None:
        self._path, self._say = path, say
        classes: list[type[Prediction]] = [Prediction, *_own_classes(task)]
        self._classes = {cls.__name__: cls for cls in classes}
        header = json.dumps({"belongs": dict(belongs)}, sort_keys=True)
        first, *lines = _whole_lines(path) or [""]
        kept = {line: row for line in lines if (row := _row(line)) is not None} if first == header else {}
        self._batches = {tuple(row["ids"]): row for row in kept.values()}
        self.used = 0
        self._file: IO[bytes] | None = None
        self._open([header, *kept])

    def __enter__(self) -> KeptAnswers:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._batches)

    def of(self, ids: Sequence[str]) -> tuple[list[Prediction], float] | None:
        """The predictions of a batch of just these examples, and the ms they took; None where there are none."""
        row = self._batches.get(tuple(ids))
        if row is None:
            return None
        try:
            found = [self._decoded(fields, row["class"]) for fields in row["predictions"]]
            _check(found, ids)
        except _UNUSABLE as error:
            del self._batches[tuple(ids)]
            self._say(f"{self._path}: the answers to {len(ids)} examples are made again ({error!r})")
            return None
        self.used += 1
        return found, row["ms"]

    def keep(self, predictions: Sequence[Prediction], ms: float) -> None:
        """Add a batch. A failure is said once; the evaluation goes on."""
        if self._file is None:
            return
        name = type(predictions[0]).__name__
        try:
            fields = [_encoded(prediction) for prediction in predictions]
            if not all(_same(self._decoded(one, name), other) for one, other in zip(fields, predictions, strict=True)):
                raise ValueError(f"a {name} is not the same after a trip through JSON")
            row = {"ids": [one.id for one in predictions], "ms": ms, "class": name, "predictions": fields}
            line = _line(json.dumps(row, ensure_ascii=False, allow_nan=False))
            if self._file.write(line) != len(line):
                raise OSError("the disk is full")
        except (OSError, ValueError, TypeError, KeyError) as error:
            self._say(f"{self._path}: answers are not kept from here on ({error})")
            self.close()

    def close(self) -> None:
        """Keep no more."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def _open(self, lines: Sequence[str]) -> None:
        """Leave the file open behind what is whole of it, which on a full disk stays."""
        content = b"".join(map(_line, lines))
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not self._path.is_file() or self._path.read_bytes() != content:
                _replace(self._path, content)
            self._file = self._path.open("ab", buffering=0)
        except OSError as error:
            self._say(f"{self._path}: answers are not kept ({error.strerror})")
            self.close()

    def _decoded(self, fields: Mapping[str, Any], name: str) -> Prediction:
        plain = {key: _tensor(value) if _is_tensor(value) else value for key, value in fields.items()}
        return self._classes[name](**plain)  # type: ignore[arg-type]  # as `_encoded` took them apart


def _own_classes(task: Task) -> list[type[Prediction]]:
    """The kinds of predictions that the task's own file defines; no other class is ever made from a file."""
    module = vars(sys.modules[type(task).__module__])
    return [kind for kind in module.values() if isinstance(kind, type) and issubclass(kind, Prediction)]


def _encoded(prediction: Prediction) -> dict[str, Any]:
    values = {field.name: getattr(prediction, field.name) for field in dataclasses.fields(prediction)}
    return {name: _bytes(value) if isinstance(value, Tensor) else value for name, value in values.items()}


def _bytes(tensor: Tensor) -> dict[str, Any]:
    raw = tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    kind = str(tensor.dtype).removeprefix("torch.")
    return {_TENSOR: base64.b64encode(raw).decode(), "dtype": kind, "shape": list(tensor.shape)}


def _tensor(value: Mapping[str, Any]) -> Tensor:
    raw = bytearray(base64.b64decode(value[_TENSOR]))
    return torch.frombuffer(raw, dtype=getattr(torch, value["dtype"])).reshape(value["shape"])


def _is_tensor(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {_TENSOR, "dtype", "shape"}


def _same(a: Prediction, b: Prediction) -> bool:
    pairs = [(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(b)]
    return all(torch.equal(x, y.cpu()) if isinstance(y, Tensor) else x == y for x, y in pairs)


def _row(line: str) -> dict[str, Any] | None:
    """A batch, if the line says for which examples, what kind of predictions, and how long they took."""
    try:
        row = json.loads(line)
        texts = [*row["ids"], row["class"]]
        usable = all(isinstance(text, str) for text in texts) and isinstance(row["predictions"], list)
        timed = type(row["ms"]) in (int, float) and 0 <= row["ms"] < math.inf
        return row if usable and timed and isinstance(row["ids"], list) else None
    except _UNUSABLE:
        return None


def _check(found: Sequence[Prediction], ids: Sequence[str]) -> None:
    if [one.id for one in found] != list(ids):
        raise ValueError("they are of other examples")
    if not all(isinstance(one.output, str) and (one.choice is None or type(one.choice) is int) for one in found):
        raise ValueError("they are no predictions")


def _replace(path: Path, content: bytes) -> None:
    """Write a file anew, beside its place first."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _line(text: str) -> bytes:
    raw = text.encode()
    return b"%s %08x\n" % (raw, zlib.crc32(raw))


def _whole_lines(path: Path) -> list[str]:
    """The lines up to the first that is cut or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return []
    found = []
    for line in content.split(b"\n")[:-1]:
        text, _, check = line.rpartition(b" ")
        if check != b"%08x" % zlib.crc32(text):
            break
        try:
            found.append(text.decode())
        except UnicodeDecodeError:
            break
    return found
