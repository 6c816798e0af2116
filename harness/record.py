"""One run as one JSON document (schema 1): the models, their checks and the way from and to text.

A record is complete or it is refused: no missing meter, no NaN, no sentinel number; what could not be
measured is null with its reason.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import secrets
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from harness.nesting import refuse_constant

SCHEMA: Final = 1

METERS: dict[str, str] = {
    "trainable_params": "params",
    "task_params": "params",
    "total_params": "params",
    "adapter_bytes": "bytes",
    "train_step_ms": "ms",
    "train_samples_per_s": "samples/s",
    "train_peak_bytes": "bytes",
    "train_peak_reserved_bytes": "bytes",
    "train_rise_bytes": "bytes",
    "train_process_bytes": "bytes",
    "eval_peak_bytes": "bytes",
    "eval_peak_reserved_bytes": "bytes",
    "eval_rise_bytes": "bytes",
    "infer_ms_per_sample": "ms",
    "infer_ms_per_sample_batched": "ms",
    "largest_batch": "samples",
    "infer_ms_per_sample_largest_batch": "ms",
    "prefill_ms": "ms",
    "decode_ms_per_token": "ms",
    "train_flops_per_sample": "FLOPs",
    "infer_flops_per_sample": "FLOPs",
    "train_flops_utilisation": "%",
    "energy_joules": "joules",
    "load_wall_s": "s",
    "train_wall_s": "s",
    "eval_wall_s": "s",
}
"""Every meter of a record with its unit, in the order in which records list them."""

ADDED = frozenset(
    {
        "task_params",
        "train_rise_bytes",
        "train_process_bytes",
        "eval_rise_bytes",
        "largest_batch",
        "infer_ms_per_sample_largest_batch",
        "train_flops_utilisation",
    }
)
"""Meters that the first records of this schema do not have."""


SAMPLES: dict[str, str] = {
    "train_loss": "nats",
    "train_step_ms": "ms",
    "infer_ms_per_sample": "ms",
    "prefill_ms": "ms",
    "decode_ms_per_token": "ms",
}
"""What is kept reading by reading beside a record, with its unit."""

_SHA256 = r"^[0-9a-f]{64}$"
SEAL = re.compile(rb',\n  "sha256": "[0-9a-f]{64}"\n\}\n')
"""How the text of a record ends that was written since there are seals."""
SEAL_LENGTH = len(',\n  "sha256": ""\n}\n') + 64


class RecordError(ValueError):
    """A record file that cannot be used; one line naming the file and what is wrong in it."""


def _encodable(value: Any) -> Any:
    """Paths that are no valid UTF-8 reach Python as lone surrogates, which JSON files cannot hold."""
    if not isinstance(value, str) or value.isascii():
        return value
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def _plain(value: Any, where: str) -> Any:
    """A copy of `value` in JSON's own types, or a ValueError naming the place that has none."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return _encodable(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} must be a finite number, got {value}")
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {_encodable(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    raise ValueError(f"{where} must be JSON (null, bool, number, string, list, object), got {type(value).__name__}")


def _copied(value: Any) -> Any:
    """As `_plain` for what is plain already, which takes a third of the time; a TypeError for anything else."""
    kind = type(value)
    if value is None or kind is int or kind is bool or (kind is str and value.isascii()):
        return value
    if kind is float and math.isfinite(value):
        return value
    if kind is dict and all(type(key) is str and key.isascii() for key in value):
        return {key: _copied(item) for key, item in value.items()}
    if kind is list:
        return [_copied(item) for item in value]
    raise TypeError


def _json_object(value: dict[str, Any]) -> dict[str, Any]:
    try:
        return {key: _copied(item) for key, item in value.items()}
    except TypeError:
        return {key: _plain(item, key) for key, item in value.items()}


Text = Annotated[str, BeforeValidator(_encodable)]
Name = Annotated[str, BeforeValidator(_encodable), Field(min_length=1)]
# Tables add, square and multiply them; 1e400, which JSON has, is no float at all.
LARGEST: Final = 1e100
Finite = Annotated[float, Field(allow_inf_nan=False, ge=-LARGEST, le=LARGEST)]
Whole = Annotated[int, Field(ge=-int(LARGEST), le=int(LARGEST))]
Count = Annotated[int, Field(ge=0, le=10**15)]
JsonObject = Annotated[dict[str, Any], AfterValidator(_json_object)]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", populate_by_name=True)


class Cell(_Model):
    """What was run. `options` holds every resolved option that can change a number, `explicit` those given by hand."""

    method: Name
    task: Name
    backbone: Name
    seed: Whole
    options: JsonObject
    explicit: JsonObject = Field(default_factory=dict)


class MetricValue(_Model):
    """One score over `n` examples; `ci95` is its interval over examples, in the same unit."""

    value: Finite | None
    unit: Text
    goal: Literal["max", "min"]
    n: Count
    ci95: tuple[Finite, Finite] | None = None
    reason: Text | None = None

    @model_validator(mode="after")
    def _check(self) -> MetricValue:
        if self.value is None and not self.reason:
            raise ValueError("a null value needs a reason")
        if self.ci95 is not None and self.ci95[0] > self.ci95[1]:
            raise ValueError(f"ci95 must be (low, high), got {self.ci95}")
        return self


class Scalar(_Model):
    """A meter read once."""

    value: Whole | Finite
    unit: Text


class Distribution(_Model):
    """A meter read `n` times."""

    median: Finite
    p20: Finite
    p80: Finite
    n: Annotated[Count, Field(ge=1)]
    unit: Text


class Unavailable(_Model):
    """A meter that could not be read."""

    value: None = None
    reason: Name


def _kind(value: Any) -> str | None:
    if isinstance(value, BaseModel):
        return type(value).__name__.lower()
    if not isinstance(value, dict):
        return None
    if "median" in value:
        return "distribution"
    return "unavailable" if value.get("value") is None else "scalar"


Meter = Annotated[
    Annotated[Scalar, Tag("scalar")]
    | Annotated[Distribution, Tag("distribution")]
    | Annotated[Unavailable, Tag("unavailable")],
    Discriminator(_kind),
]


def scalar(value: float, unit: str) -> Scalar:
    """A meter with one value.

    Raises:
        ValueError: NaN or infinite.
    """
    return Scalar(value=value, unit=unit)


def distribution(samples: Sequence[float], unit: str) -> Distribution:
    """A meter from repeated readings: median, 20th and 80th percentile (linear interpolation).

    Raises:
        ValueError: no samples, or one is NaN or infinite.
    """
    values = [float(sample) for sample in samples]
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"samples must be one or more finite numbers, got {values[:8]}")
    deciles = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else values * 9
    return Distribution(median=statistics.median(values), p20=deciles[1], p80=deciles[7], n=len(values), unit=unit)


def unavailable(reason: str) -> Unavailable:
    """A meter that could not be read, and why.

    Raises:
        ValueError: empty reason.
    """
    return Unavailable(reason=reason)


class NamedFile(_Model):
    """A file beside the record: its bare name and the SHA-256 of its bytes."""

    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    sha256: str = Field(pattern=_SHA256)


class Record(_Model):
    """One run. An `ok` record has every meter and no reason; any other status says why.

    `sha256`, that of the rest of the record's text, belongs to the file alone: `load` checks it and takes it off.

    Raises:
        ValueError: a field is missing, unknown, of the wrong type, NaN or infinite (pydantic names it).
    """

    schema_version: Literal[1] = Field(default=SCHEMA, alias="schema")
    run_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,120}$")
    status: Literal["ok", "failed", "skipped", "interrupted"]
    reason: Text | None = None
    traceback: Text | None = None
    cell: Cell
    metrics: dict[str, MetricValue] = Field(default_factory=dict)
    meters: dict[str, Meter] = Field(default_factory=dict, validate_default=True)
    predictions: NamedFile | None = None
    samples: NamedFile | None = None
    provenance: JsonObject = Field(default_factory=dict)
    sha256: str | None = Field(default=None, pattern=_SHA256)

    @field_validator("meters", mode="after")
    @classmethod
    def _complete(cls, meters: dict[str, Meter], info: ValidationInfo) -> dict[str, Meter]:
        """Every key of METERS in its order; only a run that did not end may leave some to be filled here."""
        status = info.data.get("status", "ok")
        if unknown := sorted(set(meters) - set(METERS)):
            raise ValueError(f"unknown meter {unknown[0]!r}; known: {', '.join(METERS)}")
        if status == "ok" and (missing := [name for name in METERS if name not in {*meters, *ADDED}]):
            raise ValueError(f"missing {', '.join(missing)}: an ok record has every meter, or why it has not")
        for name, meter in meters.items():
            if not isinstance(meter, Unavailable) and meter.unit != METERS[name]:
                raise ValueError(f"{name} is in {METERS[name]}, got unit {meter.unit!r}")
        absent = "this record is older than the meter" if status == "ok" else f"not measured: the run was {status}"
        return {name: meters.get(name) or unavailable(absent) for name in METERS}

    @model_validator(mode="after")
    def _check(self) -> Record:
        if self.status == "ok" and (self.reason is not None or not self.metrics):
            raise ValueError("an ok record has metrics and no reason")
        if self.status != "ok" and not self.reason:
            raise ValueError(f"a record with status {self.status!r} needs a reason")
        if self.traceback is not None and self.status != "failed":
            raise ValueError(f"only a failed record has a traceback, got status {self.status!r}")
        return self

    def to_json(self) -> str:
        """The sealed text of the record file; `traceback`, `samples` and a metric's `reason` left out where None."""
        data = self.model_dump(mode="json", by_alias=True, exclude={"sha256"})
        optional = [
            (data, "traceback"),
            (data, "samples"),
            *((metric, "reason") for metric in data["metrics"].values()),
        ]
        for holder, key in optional:
            if holder[key] is None:
                del holder[key]
        return _sealed(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def load(path: Path) -> Record:
    """The record in a file.

    Raises:
        RecordError: unreadable, no JSON (with line and column), a newer schema, a field that is wrong, or a text that
            was edited since it was written.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise RecordError(f"{path}: no valid JSON: {error}") from None
    try:
        # From the text: strict checks let a JSON array, but not a Python list, become a tuple.
        record = Record.model_validate_json(text)
    except ValidationError as error:
        raise RecordError(f"{path}: {_wrong(text) or first_error(error)}") from None
    if record.sha256 is None:  # older than the seal
        return record
    if text != _sealed(text[:-SEAL_LENGTH] + "\n}\n"):
        raise RecordError(f"{path}: edited since it was written: its sha256 is not that of its text")
    return record.model_copy(update={"sha256": None})


def _wrong(text: str) -> str | None:
    """What is wrong with a text as a whole, rather than with a field of it."""
    try:
        data = json.loads(text, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        return f"no valid JSON at line {error.lineno} column {error.colno}: {error.msg}"
    except (ValueError, RecursionError) as error:
        return f"no valid JSON: {error}"
    version = data.get("schema") if isinstance(data, dict) else None
    if isinstance(version, int) and version > SCHEMA:
        return f"schema {version} is newer than schema {SCHEMA} of this vltune; update vltune"
    return None


def _sealed(text: str) -> str:
    """The text of a record with its own SHA-256 as the last field."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return text.removesuffix("\n}\n") + f',\n  "sha256": "{digest}"\n}}\n'


def first_error(error: ValidationError) -> str:
    """The first thing that is wrong with a file, by its field, and how many more there are."""
    first, *others = error.errors(include_url=False)
    place = ".".join(str(part) for part in first["loc"]) or "record"
    more = f" (and {len(others)} more)" if others else ""
    return f"{place}: {first['msg']}{more}"


def cell_key(cell: Cell) -> str:
    """SHA-256 (hex) of what identifies a cell: all but `explicit`, which only says who chose the values."""
    identity = cell.model_dump(mode="json", exclude={"explicit"})
    return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def new_run_id(cell: Cell, started: datetime) -> str:
    """UTC time, cell key and chance: sorts by start, unique among parallel writers, a file name everywhere.

    Raises:
        ValueError: `started` has no time zone.
    """
    if started.tzinfo is None:
        raise ValueError(f"started must have a time zone, got {started}")
    utc = started.astimezone(UTC)
    return f"{utc:%Y%m%dT%H%M%S}{utc.microsecond // 1000:03d}Z-{cell_key(cell)[:8]}-{secrets.token_hex(3)}"
