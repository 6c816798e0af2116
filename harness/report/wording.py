"""How only the page writes things; what every format of a table shares is in `harness.tables.columns`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from harness.tables.columns import header, visible
from harness.tables.rows import flatten, show


def title(metric: str) -> str:
    """The header of a score, whatever characters somebody's task has in its name."""
    return visible(header(metric))


def p_value(p: float) -> str:
    """A p-value as it is read: none is zero."""
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("= 0.", "= .")


def pairs(options: Any) -> list[tuple[str, str]]:
    """Nested options as dotted names with their values."""
    return [(visible(name), visible(show(value))) for name, value in flatten(options or {}).items()]


def listed(names: Iterable[str]) -> str:
    """Names in a sentence."""
    return ", ".join(names)
