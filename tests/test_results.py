"""The committed leaderboard is what the committed records give."""

from pathlib import Path

from harness.example_scores import reader
from harness.leaderboard import markdown
from harness.store import Store

RESULTS = Path(__file__).parents[1] / "results"


def test_the_leaderboard_is_generated_from_the_records() -> None:
    store = Store(RESULTS / "reference")
    records = store.read()
    assert records
    assert (RESULTS / "LEADERBOARD.md").read_text(encoding="utf-8") == markdown(records, scores=reader(store))
