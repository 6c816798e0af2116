"""What `vltune flops` counted as one HTML file to look at: FLOPs by length of text, and how they grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.meters.growth import KINDS, TERA, Cost, exponent, rows
from harness.report import assets
from harness.report.colours import Look, looks
from harness.tables.columns import MISSING, significant, visible

_SCRIPTS = ("theme", "figures", "costs")
_TITLES = dict(zip(KINDS, ("A training step", "Reading the prompt", "One token more"), strict=True))
_UNITS = ("TFLOP", TERA), ("GFLOP", 1e9), ("MFLOP", 1e6)
_PICTURE = "without a picture", "with a picture"


def render(costs: Sequence[Cost], refused: Mapping[str, str], *, backbone: str) -> str:
    """The page of one backbone as text of an HTML file.

    Args:
        costs: as `growth.costs` returns them.
        refused: by method why it has none.
        backbone: its name.
    """
    look = looks(cost.method for cost in costs)
    plots = [_plot(kind, costs, look) for kind in KINDS] if costs else []
    return assets.filled(
        "costs.html",
        _SCRIPTS,
        {"plots": [{"lines": plot["lines"], "unit": plot["unit"]} for plot in plots]},
        backbone=visible(backbone),
        plots=plots,
        rows=[{title: visible(cell) for title, cell in row.items()} for row in rows(costs)],
        refused=[(visible(name), visible(reason)) for name, reason in refused.items()],
    )


def _plot(kind: str, costs: Sequence[Cost], look: Mapping[str, Look]) -> dict[str, Any]:
    """Two lines for each method; what costs nothing is on neither, as the axes may be logarithmic."""
    lines, legend = [], []
    unit, size = _unit(max(getattr(cost, kind) for cost in costs))
    for name in dict.fromkeys(cost.method for cost in costs):
        said = []
        for images in (1, 0):
            own = sorted((c for c in costs if (c.method, c.images) == (name, images)), key=lambda c: c.text_tokens)
            lengths, flops = [c.text_tokens for c in own], [getattr(c, kind) for c in own]
            power = exponent(lengths, flops)
            said.append(f"{MISSING if power is None else f'T^{power:.2f}'} {_PICTURE[images]}")
            points = [(length, value / size) for length, value in zip(lengths, flops, strict=True) if value > 0]
            lines.append(_line(look[name], images, points, unit))
        legend.append({"look": look[name], "said": ", ".join(said)})
    return {"title": _TITLES[kind], "unit": unit, "lines": [line for line in lines if line["x"]], "legend": legend}


def _unit(most: int) -> tuple[str, float]:
    """A unit that the largest figure is not below, and its FLOPs."""
    return next(((name, size) for name, size in _UNITS if most >= size), _UNITS[-1])


def _line(look: Look, images: int, points: Sequence[tuple[int, float]], unit: str) -> dict[str, Any]:
    return {
        "look": look.css,
        "symbol": look.symbol,
        "dash": "solid" if images else "dash",
        "x": [length for length, _ in points],
        "y": [value for _, value in points],
        "hover": [
            [look.name, f"{length:,} tokens {_PICTURE[images]}", f"{significant(value)} {unit}"]
            for length, value in points
        ],
    }
