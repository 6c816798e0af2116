"""The page of a run: everything its record holds, and a command that a shell reads as it was given."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.report.runs import command, run_page, shell_quote
from tests.harness.report.records import make


def test_the_page_holds_options_scores_meters_and_provenance() -> None:
    page = run_page(make(1, more={"accuracy_nat": 12.0}))
    parts = {title: dict(rows) for title, rows in page["parts"]}
    assert page["title"] == "memvp · scienceqa · mini · seed 0"
    assert page["command"] == "vltune run --methods memvp"
    assert parts["Run"]["status"] == "ok"
    assert parts["Scores"] == {"Acc.": "50.00 % n=40", "NAT": "12.00 % n=20"}
    assert parts["Meters"]["trainable_params"] == "1,000,000 params"
    assert parts["Meters"]["train_step_ms"] == "10 ms (20 % 10, 80 % 10, n=1)"
    assert parts["Meters"]["energy_joules"] == "– (not read)"
    assert parts["Options"]["method.slots"] == "80"
    assert parts["Provenance"] == {"git.commit": "cccccccccccc", "git.dirty": "false"}


def test_a_failed_run_has_its_reason() -> None:
    page = run_page(make(1, status="failed", reason="out\nof memory"))
    assert dict(page["parts"][0][1])["reason"] == "out of memory"


def test_a_record_without_a_command_has_none() -> None:
    assert command(make(1, provenance={"other": 1})) == ""


@pytest.mark.parametrize(
    "word", ["plain", "two words", "it's", "a\nb", "\x1b[31m'\\", "\u202eabc", "\u2028", "$(id) `id` \\", "é 1", ""]
)
def test_bash_reads_every_word_as_it_was(word: str, tmp_path: Path) -> None:
    quoted = shell_quote(word)
    assert all(char.isprintable() for char in quoted)
    script = tmp_path / "script"
    script.write_text(f"printf %s {quoted}", encoding="utf-8")
    read = subprocess.run(["bash", str(script)], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    assert read.stdout.decode() == word
