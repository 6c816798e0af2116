"""JSON files whose faults are reported in one line: file, place and fix."""

from __future__ import annotations

import json
import re
import reprlib
from pathlib import Path
from typing import Any

from tasks import DataError

MOST_BYTES = 200 * 10**6
"""Of one file. The largest official one, dataset_coco.json, has some 150 million, and in memory several times that."""

_AGAIN = "the file may be cut off or edited by hand; fetch it again"
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; UTF-8, with or without a byte order mark.

    Raises:
        DataError: as `read_value`, or no object at its top.
    """
    value = read_value(path)
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds {kind(value)} at its top; it must be an object {{...}}")
    return value


def read_value(path: Path) -> Any:
    """What a JSON file holds; UTF-8, with or without a byte order mark.

    Raises:
        DataError: missing or unreadable file, more than `MOST_BYTES`, not UTF-8, malformed JSON (line and column),
            values nested too deep, a number of thousands of digits, or half a surrogate pair, which no other file and
            no tokenizer takes.
    """
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            fix = "no official file of data is as large; leave out what is not needed"
            raise DataError(f"{path}: has {size:,} bytes, more than {MOST_BYTES:,}; {fix}")
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
    except ValueError:
        raise DataError(f"{path}: has a number of thousands of digits; {_AGAIN}") from None
    except RecursionError:
        raise DataError(f"{path}: has lists or objects nested too deep; {_AGAIN}") from None
    if _HALF.search(text):
        _check_encodable(value, path)
    return value


def shown(value: object) -> str:
    """A value for an error message, as Python writes it; of a long or deep one only some."""
    return _SHORT.repr(value)


def kind(value: object) -> str:
    """What JSON calls the value's type, with an article."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _check_encodable(value: Any, path: Path) -> None:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, str) and any("\ud800" <= char <= "\udfff" for char in one):
            raise DataError(
                f"{path}: {shown(one)} holds half a surrogate pair, which is no character; correct it there"
            )
