"""The committed leaderboard is what the committed records give."""

from pathlib import Path

from harness.leaderboard import markdown
from harness.store import Store

RESULTS = Path(__file__).parents[1] / "results"


def test_the_leaderboard_is_generated_from_the_records() -> None:
    records = Store(RESULTS / "reference").read()
    assert records
    assert (RESULTS / "LEADERBOARD.md").read_text(encoding="utf-8") == markdown(records)
