"""Settings as text: what `--set` and recipe files say, read into the fields of any frozen dataclass."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
LARGEST = 1e300
"""No number of a setting is larger; whole ones beyond it could not be computed with."""
_BOOLS = {"true": True, "false": False}


class UsageError(ValueError):
    """A mistake on the command line or in a recipe; one line naming the thing and the fix."""


def suggest(name: str, known: Iterable[str], titles: Mapping[str, str] | None = None) -> str:
    """What to say after an unknown name: up to three known ones that hold it, else the nearest one, or all of them.

    `titles`: what known names are displayed as; a name that one of these holds stands for it.
    """
    known, part, shown = list(known), name.strip().lower(), titles or {}
    near = [key for key in known if part in key.lower() or part in shown.get(key, "").lower()]
    if not 1 <= len(near) <= 3 or len(part) < 2:
        near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(known) or 'none'}"


def parse_overrides(items: Iterable[str]) -> dict[str, dict[str, str]]:
    """`SCOPE.FIELD=VALUE` texts as {scope: {field: value}}.

    Raises:
        UsageError: another form, or one field set twice.
    """
    given: dict[str, dict[str, str]] = {}
    for item in items:
        match = re.fullmatch(r"\s*([\w-]+)\.(\w+)\s*=(.*)", item, flags=re.DOTALL)
        if match is None:
            raise UsageError(f"--set {item}: write SCOPE.FIELD=VALUE, for example ademvl.drop_ratio=0.2")
        scope, field, value = match.groups()
        if field in given.setdefault(scope, {}):
            raise UsageError(f"--set {item}: {scope}.{field} is set twice; keep one")
        given[scope][field] = value.strip()
    return given


def read(cls: type, values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Values (texts, or what TOML gives) as the types that the fields of a dataclass are annotated with.

    Args:
        cls: the dataclass.
        values: by field name.
        where: put before a field's name in errors, such as `--set ademvl.`.

    Raises:
        UsageError: no such field, or a value of another type.
    """
    known = [field.name for field in dataclasses.fields(cls)]
    hints = typing.get_type_hints(cls)
    fields = {}
    for name, value in values.items():
        if name not in known:
            raise UsageError(f"{where}{name}: no such field; {suggest(name, known)}")
        try:
            fields[name] = parse(hints[name], as_text(value))
        except ValueError as error:
            raise UsageError(f"{where}{name}: {error}") from None
    return fields


def make(cls: type[T], fields: Mapping[str, Any], *, scope: str) -> T:
    """An instance of a dataclass that checks its own values.

    Raises:
        UsageError: a value it refuses, with the scope named.
    """
    try:
        return cls(**fields)
    except ValueError as error:
        raise UsageError(f"{scope}: {error}") from None


def parse(hint: Any, text: str) -> Any:
    """A text as a value of an annotated type: int, float, bool, str, Literal, `tuple[X, ...]`, `X | None`.

    Tuples are written `64,16` or `64+16`, None is written `none`.

    Raises:
        ValueError: the text is no such value, or the type cannot be written as text.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType) and types.NoneType in args and len(args) == 2:
        if text.lower() == "none":
            return None
        return parse(next(arg for arg in args if arg is not types.NoneType), text)
    if origin is typing.Literal:
        return _one_of({str(arg): arg for arg in args}, text)
    if origin is tuple and args[1:] == (Ellipsis,):
        pieces = re.split(r"[,+]", text.strip(" ()[],"))
        return tuple(parse(args[0], piece.strip()) for piece in pieces if piece.strip())
    if hint is bool:
        return _one_of(_BOOLS, text.lower())
    if hint in (int, float):
        return _number(hint, text)
    if hint is str:
        return text
    raise ValueError(f"values of type {hint} cannot be given here")


def as_text(value: Any) -> str:
    """A TOML value as `parse` reads it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "+".join(map(as_text, value)) if isinstance(value, list) else str(value)


def _one_of(choices: Mapping[str, T], text: str) -> T:
    if text not in choices:
        raise ValueError(f"expected {' or '.join(choices)}, got {text!r}")
    return choices[text]


def _number(kind: type[int] | type[float], text: str) -> int | float:
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(f"expected {'an integer' if kind is int else 'a number'}, got {text!r}") from None
    if not abs(value) <= LARGEST:
        raise ValueError(f"expected a finite number, got {text!r}")
    return value
