"""Values of flags: each function reads a text, or refuses it in words before which argparse puts the flag."""

from __future__ import annotations

import argparse

LARGEST_SEED = 2**32 - 1


def count(text: str) -> int:
    """A whole number from 1."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def counts(text: str) -> tuple[int, ...]:
    """A comma list of whole numbers from 1, each once, in rising order."""
    pieces = [piece for piece in text.split(",") if piece.strip()]
    if not pieces:
        raise argparse.ArgumentTypeError("names no number; write a comma list such as 64,256,1024")
    return tuple(sorted({count(piece) for piece in pieces}))


def share(text: str) -> float:
    """Above 0, at most 1."""
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, got {text!r}")
    return share


def gpus(text: str) -> tuple[int, ...]:
    """Different numbers of GPUs."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise argparse.ArgumentTypeError(f"must be different GPU numbers such as 0,1, got {text!r}")
    return tuple(map(int, parts))


def positive(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text!r}")
    return value


def whole(text: str) -> int:
    """A whole number from 0."""
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1 (0 with --init), got {text!r}")
    return int(text)


def seed(text: str) -> int:
    """What a generator can be seeded with."""
    if not text.strip().isdecimal() or int(text) > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"seeds are whole numbers from 0 to {LARGEST_SEED}, got {text!r}")
    return int(text)


def names(text: str) -> tuple[str, ...]:
    """A comma list, each name once."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise argparse.ArgumentTypeError("names no column; write a comma list such as accuracy,train_step_ms")
    return names


def seeds(text: str) -> tuple[int, ...]:
    """A comma list of seeds, each once."""
    pieces = [piece for piece in text.split(",") if piece.strip()]
    if not pieces:
        raise argparse.ArgumentTypeError("names no seed; write a comma list such as 0,1,2")
    return tuple(dict.fromkeys(seed(piece) for piece in pieces))
