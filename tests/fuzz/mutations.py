"""Bad inputs made from good ones: bytes cut or flipped, one wrong value in JSON or TOML, names that lead astray.

All of them are Hypothesis strategies, so that a failure shrinks to the smallest change.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

Path_ = tuple[str | int, ...]

ESCAPED = "vltune-fuzz-escaped"
"""In the name of every file that a hostile name would make or read outside of its folder."""
NAMES = (
    *(f"../../{ESCAPED}", f"/tmp/{ESCAPED}", f"a/../../../{ESCAPED}", f"~/{ESCAPED}", f"C:\\{ESCAPED}", "..", ".", ""),
    *("a\0b", "a\nb", "\x1b[2J\x1b]0;title\x07", "con", "nul.json", "\u202egpj.exe", "\udcff", "-rf", "x" * 300),
)
"""Hostile names, one of them without a character that UTF-8 has."""
DEEP = 100_000
DIGITS = 5_000
WRONG = (
    *("null", "true", "0", "-1", "1.5", "-1e-320", "1e400", "NaN", "-Infinity", str(2**63), str(10**40), "9" * DIGITS),
    *("[]", "{}", "[null]", "[[]]", '{"": {}}', "[1, 2, 3]", '"3"', '" "', json.dumps("long " * 20_000)),
    *("[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, "[" * 300 + "]" * 300),
    *map(json.dumps, NAMES),
)
"""JSON that is hardly ever right, as it is written."""
KINDS = ("null", "true", "3", "-1.5", '"text"', "[]", "[[]]", "[1]", "{}", '{"a": [null]}', str(10**40))
"""JSON of every type."""
_HERE = "@ the change @"
_WHOLE = (b"", b" ", b"null", b"[]", b"{}", b"3", b'"text"', b"{", b"\xff\xfe", b"\x80", b"<html>", b"\x00" * 64)


def flipped(good: bytes, *, within: int | None = None) -> SearchStrategy[bytes]:
    """One to four other bits, all of them among the first `within` bytes."""
    last = min(len(good), within or len(good)) * 8 - 1

    def flip(places: list[int]) -> bytes:
        content = bytearray(good)
        for place in places:
            content[place // 8] ^= 1 << place % 8
        return bytes(content)

    return st.lists(st.integers(0, last), min_size=1, max_size=4, unique=True).map(flip)


def cut(good: bytes) -> SearchStrategy[bytes]:
    """A part of it from the beginning, never the whole."""
    return st.integers(0, len(good) - 1).map(lambda size: good[:size])


@st.composite
def overwritten(draw: DrawFn, good: bytes, *, within: int | None = None) -> bytes:
    """A few bytes in a row that are others, more, or gone."""
    start = draw(st.integers(0, min(len(good), within or len(good)) - 1))
    gone = draw(st.integers(0, 16))
    new = draw(st.one_of(st.binary(min_size=1, max_size=16), st.sampled_from([b"\xff" * 8, b"\0" * 16, b"9" * 16])))
    return good[:start] + new + good[start + gone :]


def damaged(good: bytes, *, within: int | None = None) -> SearchStrategy[bytes]:
    """Bytes that a bad disk, a broken download or an editor leaves; `within` as in `flipped`."""
    return st.one_of(
        cut(good),
        flipped(good, within=within),
        overwritten(good, within=within),
        st.sampled_from([*_WHOLE, good + good]),
    )


def places(value: Any, here: Path_ = ()) -> list[Path_]:
    """Where something stands in a JSON value, from the outside in."""
    found: list[Path_] = [here]
    if isinstance(value, dict):
        found += [place for key, item in value.items() for place in places(item, (*here, key))]
    elif isinstance(value, list):
        found += [place for index, item in enumerate(value) for place in places(item, (*here, index))]
    return found


def changed(value: Any, place: Path_, change: Callable[[Any], None] | None, new: Any = None) -> Any:
    """A copy with another value at a place, or with `change` applied to what holds that place."""
    whole = json.loads(json.dumps([value]))
    holder: Any = whole
    for step in (0, *place[:-1]) if place else ():
        holder = holder[step]
    if change is None or not place:
        holder[place[-1] if place else 0] = new
    else:
        change(holder)
    return whole[0]


@st.composite
def wrong_value(draw: DrawFn, good: Any, *, fragments: Sequence[str] = WRONG) -> str:
    """JSON text with one value that is wrong: of another type, huge, deep, or a hostile name."""
    place = draw(st.sampled_from(places(good)))
    return json.dumps(changed(good, place, None, _HERE)).replace(json.dumps(_HERE), draw(st.sampled_from(fragments)))


@st.composite
def wrong_key(draw: DrawFn, good: Any) -> str:
    """JSON text with one key (or entry of a list) that is gone, doubled, or has a hostile name."""
    place = draw(st.sampled_from(places(good)[1:] or [()]))
    way = draw(st.sampled_from(["gone", "renamed", "doubled"]))
    name = draw(st.sampled_from(NAMES))

    def change(holder: Any) -> None:
        value = holder[place[-1]] if way == "doubled" else holder.pop(place[-1])
        if way == "gone":
            return
        if isinstance(holder, list):
            holder += [value, value]
        else:
            holder[name] = value

    return json.dumps(changed(good, place, change, []))


def bad_json(good: Any, *, fragments: Sequence[str] = WRONG) -> SearchStrategy[bytes]:
    """A file that should hold `good`, most often well-formed and wrong."""
    text = json.dumps(good)
    well_formed = st.one_of(wrong_value(good, fragments=fragments), wrong_value(good), wrong_key(good))
    return st.one_of(well_formed.map(lambda t: t.encode("utf-8", "surrogatepass")), damaged(text.encode()))


TOML = (
    *("true", "-1", "1.5", "nan", "-inf", "9" * DIGITS, "1e400", "1979-05-27", "07:32:00", "[]", "{}", "[[]]", '""'),
    *("{ value = 1 }", "{ value = 1, source = 2 }", "[1, 'a', {}]", f'"{"long " * 20_000}"', "[" * DEEP + "]" * DEEP),
    *("{ a = " * 300 + "1" + " }" * 300, ".".join("a" * 3_000) + " = 1", "'\x1b[31m'", r'"\u0000"', r'"\U0000d800"'),
    *(json.dumps(name) for name in NAMES if name.isprintable()),
)
"""TOML values that are hardly ever right, and some that no TOML is."""


@st.composite
def wrong_toml(draw: DrawFn, good: str) -> bytes:
    """TOML in which the value, or the key, of one line is another."""
    lines = good.splitlines()
    number = draw(st.sampled_from([n for n, line in enumerate(lines) if "=" in line or line.startswith("[")]))
    key, equals, _ = lines[number].partition("=")
    new = draw(st.sampled_from(TOML))
    named = f"{new}{equals}1" if equals else f"[{new}]"
    keyed = f"[{key.strip('[] ')}.{new}]" if not equals else f"unknown-{key}= 1"
    lines[number] = draw(st.sampled_from([f"{key}= {new}", f"{key}= {new}", named, keyed, ""]))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def bad_toml(good: str) -> SearchStrategy[bytes]:
    """A TOML file that is wrong in one place, or damaged."""
    return st.one_of(wrong_toml(good), wrong_toml(good), damaged(good.encode()))
