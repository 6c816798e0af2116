"""Published figures: the tables of results/published/ (schema 1), read and checked.

Other people's numbers: never ranked with records. `harness.tables.published_tables` shows them;
results/published/README.md describes the files.
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.dataclasses import dataclass

from harness.nesting import refuse_constant
from harness.record import first_error
from harness.tables.columns import LONGEST_TEXT

SCHEMA: Final = 1

_FIX = "see results/published/README.md for the schema"
_CONFIG = ConfigDict(extra="forbid")


class PublishedError(ValueError):
    """A file of published figures that cannot be used; one line naming the file, the field and the fix."""


def _number(value: Any) -> Any:
    """Only null and what JSON writes as a number; pydantic would take a quoted one too."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | Decimal)):
        raise ValueError("must be a number with the printed digits, or null where the source has none")
    return value


# What the tables show of a text; longer ones would be cut there.
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST_TEXT)]
# Digits are bounded because 1e999999999 is valid JSON, and as long as it says when it is written out.
Number = Annotated[Decimal, Field(max_digits=18, decimal_places=6)]
Printed = Annotated[Number | None, BeforeValidator(_number)]


@dataclass(frozen=True, config=_CONFIG)
class PublishedSource:
    """Where a table stands: a paper or repository, and the table, file or thread in it."""

    name: Text
    arxiv: Annotated[str, Field(pattern=r"^\d{4}\.\d{4,5}$")] | None
    place: Text


@dataclass(frozen=True, config=_CONFIG)
class PublishedMetric:
    """A column: its printed head, and the unit of its values."""

    label: Text
    unit: Text


@dataclass(frozen=True, config=_CONFIG)
class PublishedRow:
    """One row as printed. `ours` is the name of our method where the row is one; None: not published or not found."""

    method: Text
    ours: Text | None
    backbone: Text | None
    trainable_params: Printed
    values: dict[Text, Printed]
    notes: tuple[Text, ...] = ()


@dataclass(frozen=True, config=_CONFIG)
class PublishedTable:
    """One table of one source. Numbers are decimals, because 94.6 and 94.60 are not printed alike.

    Raises:
        ValueError: a field is missing, unknown or wrong (pydantic names it).
    """

    schema: Literal[1]
    task: Text
    title: Text
    source: PublishedSource
    metrics: Annotated[dict[Text, PublishedMetric], Field(min_length=1)]
    rows: Annotated[tuple[PublishedRow, ...], Field(min_length=1)]
    notes: tuple[Text, ...] = ()

    @field_validator("rows", mode="after")
    @classmethod
    def _complete(cls, rows: tuple[PublishedRow, ...], info: ValidationInfo) -> tuple[PublishedRow, ...]:
        """Every row has every metric of the table, and no other."""
        if (metrics := info.data.get("metrics")) is None:
            return rows
        for index, row in enumerate(rows):
            if missing := [name for name in metrics if name not in row.values]:
                raise ValueError(
                    f"values of row {index} ({row.method!r}) lack {missing[0]!r}: write null for not found"
                )
            if unknown := [name for name in row.values if name not in metrics]:
                raise ValueError(f"values of row {index} ({row.method!r}) have {unknown[0]!r}: add it to metrics")
        return rows


_TABLE = TypeAdapter(PublishedTable)


def folder() -> Path:
    """Where the published figures lie: in the clone that runs, or where an installation has put them."""
    clone = Path(__file__).parents[2] / "results" / "published"
    return clone if clone.is_dir() else Path(sysconfig.get_path("data")) / "share" / "vltune" / "published"


def read(folder: Path) -> list[PublishedTable]:
    """The tables of a folder's `*.json`, in the order of the file names.

    Raises:
        PublishedError: no such folder, or a file that is malformed or of a newer schema; names it.
    """
    if not folder.is_dir():
        raise PublishedError(
            f"{folder}: no such folder; copy results/published of the repository there, or run vltune from a clone"
        )
    return [_load(path) for path in sorted(folder.glob("*.json")) if not path.name.startswith(".")]


def _load(path: Path) -> PublishedTable:
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text, parse_float=Decimal, parse_constant=refuse_constant, object_pairs_hook=_refuse_doubled)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise PublishedError(f"{path}: no valid JSON at {place}: {error.msg}; correct it there") from None
    except OSError as error:
        raise PublishedError(f"{path}: cannot be read ({error.strerror}); restore it or remove it") from None
    # Decimal refuses exponents beyond its own with an ArithmeticError.
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise PublishedError(f"{path}: no valid JSON: {error}; {_FIX}") from None
    if not isinstance(data, dict):
        raise PublishedError(f"{path}: must hold one JSON object; {_FIX}")
    version = data.get("schema")
    if isinstance(version, int) and version > SCHEMA:
        raise PublishedError(f"{path}: schema {version} is newer than schema {SCHEMA} of this vltune; update vltune")
    try:
        return _TABLE.validate_python(data)
    except ValidationError as error:
        raise PublishedError(f"{path}: {first_error(error)}; {_FIX}") from None


def _refuse_doubled(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of a key written twice JSON would silently keep the last."""
    whole = dict(pairs)
    if len(whole) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} comes twice in one object")
    return whole
