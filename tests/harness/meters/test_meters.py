"""What holds for all meters."""

from __future__ import annotations

from pathlib import Path

from harness.record import METERS

ROOT = Path(__file__).parents[3]


def test_every_meter_has_its_definition_and_unit() -> None:
    rows = [line for line in (ROOT / "docs" / "meters.md").read_text().splitlines() if line.startswith("| `")]
    for name, unit in METERS.items():
        [defined] = [row for row in rows if f"`{name}`" in row.split("|")[1] and row.split("|")[2].strip() == unit]
        assert len(defined.split("|")) > 4
