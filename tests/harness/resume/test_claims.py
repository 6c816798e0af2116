"""Claims: one process a cell, whoever is gone loses his."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.resume import claims as claims_module
from harness.resume.claims import Claim, Claims
from harness.store import StoreError

KEY = "a" * 64


def claims(root: Path, stale_s: float = 60.0) -> Claims:
    return Claims(root, stale_s=stale_s, beat_s=0.05)


def taken(root: Path, stale_s: float = 60.0) -> Claim:
    found = claims(root, stale_s).take(KEY)
    assert isinstance(found, Claim), found
    return found


def test_a_cell_has_one_owner_until_it_is_released(tmp_path: Path) -> None:
    first = taken(tmp_path / "results with spaces")
    holder = claims(tmp_path / "results with spaces").take(KEY)
    assert isinstance(holder, dict)
    assert holder["pid"] == os.getpid()
    assert first.title.held()
    first.release()
    assert not first.title.held()
    taken(tmp_path / "results with spaces").release()
    assert list((tmp_path / "results with spaces" / "claims").iterdir()) == []


def test_other_cells_are_free(tmp_path: Path) -> None:
    first = taken(tmp_path)
    other = claims(tmp_path).take("b" * 64)
    assert isinstance(other, Claim)
    other.release()
    first.release()


def test_the_claim_of_a_process_that_is_gone_is_void_at_once(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from harness.resume.claims import Claims; "
        f"Claims(Path(sys.argv[1])).take({KEY!r}); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    left = list((tmp_path / "claims" / KEY).iterdir())
    assert len(left) == 1
    started = time.monotonic()
    mine = taken(tmp_path)
    assert time.monotonic() - started < 5
    assert mine.title.path.name == "2"
    mine.release()


def test_a_process_that_was_killed_and_not_yet_waited_for_is_gone(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from harness.resume.claims import Claims; "
        f"Claims(Path(sys.argv[1])).take({KEY!r}); print(1, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert isinstance(claims(tmp_path).take(KEY), dict)
        process.kill()
        stat = Path(f"/proc/{process.pid}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        mine = taken(tmp_path)
        assert mine.taken_over
        mine.release()
    finally:
        process.communicate()
    again = taken(tmp_path)
    assert not again.taken_over, "it was released"
    again.release()


def foreign(root: Path, age_s: float) -> Path:
    """A claim of another machine that was touched so long ago."""
    path = root / "claims" / KEY / "1"
    path.parent.mkdir(parents=True)
    owner = {"host": "elsewhere", "pid": 1, "boot": "b", "space": "s", "began": "0", "token": "t"}
    path.write_text(json.dumps(owner), encoding="utf-8")
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def test_another_machine_is_believed_for_as_long_as_it_beats(tmp_path: Path) -> None:
    foreign(tmp_path, age_s=30)
    holder = claims(tmp_path).take(KEY)
    assert isinstance(holder, dict)
    assert holder["host"] == "elsewhere"


def test_a_silent_machine_loses_its_cell_and_is_told(tmp_path: Path) -> None:
    foreign(tmp_path, age_s=61)
    taken(tmp_path).release()
    first = taken(tmp_path)
    first._over.set()  # as if this machine slept
    first._thread.join()
    old = time.time() - 100
    os.utime(first.title.path, (old, old))
    # Of this machine only the clock may tell, as the process still runs.
    second = taken(tmp_path)
    assert second.title.held()
    assert not first.title.held()
    first.release()
    assert second.title.held(), "the loser leaves the winner's claim alone"
    second.release()


def test_a_claim_is_kept_alive(tmp_path: Path) -> None:
    first = taken(tmp_path, stale_s=0.5)
    time.sleep(1.2)
    assert isinstance(claims(tmp_path, stale_s=0.5).take(KEY), dict)
    first.release()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}'])
def test_a_damaged_claim_ages_like_any_other(content: str, tmp_path: Path) -> None:
    path = foreign(tmp_path, age_s=0)
    path.write_text(content, encoding="utf-8")
    assert isinstance(claims(tmp_path).take(KEY), dict)
    old = time.time() - 100
    os.utime(path, (old, old))
    taken(tmp_path).release()


def _race(root: Path, keys: list[str], won: multiprocessing.SimpleQueue[str]) -> None:
    for key in keys:
        found = Claims(root, beat_s=10).take(key)
        if isinstance(found, Claim):
            won.put(key)
    time.sleep(1.0)  # all claims are held until everybody has tried
    os._exit(0)


def test_of_many_that_race_one_gets_each_cell(tmp_path: Path) -> None:
    keys = [f"{number:064d}" for number in range(40)]
    context = multiprocessing.get_context("fork")
    won = context.SimpleQueue()
    racers = [context.Process(target=_race, args=(tmp_path, keys, won)) for _ in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    winners = []
    while not won.empty():
        winners.append(won.get())
    assert sorted(winners) == keys


def test_a_listing_that_misses_a_claim_gives_no_second_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = taken(tmp_path)
    listed = claims_module._claims
    missed = iter([True])

    def listing(folder: Path) -> list[Path]:
        """As while another process replaces a void claim: neither the old file nor the new one is seen."""
        return [] if next(missed, False) else listed(folder)

    first.title.path.rename(first.title.path.with_name("6"))
    monkeypatch.setattr(claims_module, "_claims", listing)
    holder = claims(tmp_path).take(KEY)
    assert isinstance(holder, dict)
    assert holder["token"] == first.title.owner["token"]
    assert [path.name for path in (tmp_path / "claims" / KEY).iterdir()] == ["6"]
    first.release()


def test_a_share_that_is_away_for_a_moment_costs_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = taken(tmp_path)
    read, away = Path.read_text, iter([True, True])

    def text(self: Path, *args: object, **named: object) -> str:
        if self == mine.title.path and next(away, False):
            raise OSError(errno.EIO, "Input/output error", str(self))
        return read(self, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(claims_module, "WAIT_S", 0.01)
    mine._over.set()  # its own reads are not what is tested
    mine._thread.join()
    monkeypatch.setattr(Path, "read_text", text)
    assert mine.title.held()
    monkeypatch.setattr(claims_module, "STALE_S", 0.0)
    away = iter([True] * 9)
    with pytest.raises(StoreError, match="cannot be read \\(Input/output error\\)"):
        mine.title.held()
