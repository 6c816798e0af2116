"""JSON files whose faults are reported in one line: file, place and fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks import DataError

_AGAIN = "the file may be cut off or edited by hand; fetch it again"


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; UTF-8, with or without a byte order mark.

    Raises:
        DataError: missing or unreadable file, not UTF-8, malformed JSON (line and column), or no object at its top.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: missing file; put it there, or point --data-root at the folder that has it") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; {_AGAIN}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise DataError(f"{path}: malformed JSON at {place} ({error.msg}); {_AGAIN}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds {kind(value)} at its top; it must be an object {{...}}")
    return value


def kind(value: object) -> str:
    """What JSON calls the value's type, with an article."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
