"""Words of others, such as names out of files, as one line of a terminal."""

from __future__ import annotations

LONGEST = 1_000
_END = 250


def printable(text: str) -> str:
    """What is in a text, for all to see: control characters and halves of surrogate pairs are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(error: BaseException) -> str:
    """An error's text in one line; of a long one the beginning, which names the file, and the end, with the fix."""
    text = printable(" ".join(str(error).splitlines()))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - _END]} [...] {text[-_END:]}"


def named(error: BaseException) -> str:
    """An error's kind and text in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
