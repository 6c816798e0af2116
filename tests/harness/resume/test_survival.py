"""Real processes that are stopped or killed at any moment: started again, every cell ends as if nothing had been."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.record import Record, Unavailable
from harness.results_check import check
from harness.store import Store
from tasks.mini import scienceqa as mini_scienceqa

KILLS = int(os.environ.get("VLTUNE_KILLS", "6"))
LONGEST_S = 240


def command(folders: tuple[Path, Path], root: Path, results: str, *more: str) -> list[str]:
    llm, vision = map(str, folders)
    where = ["--llm", llm, "--vision", vision, "--data-root", str(root / "data"), "--results", str(root / results)]
    size = ["--steps", "40", "--batch-size", "4", "--checkpoint-steps", "1", "--device", "cpu"]
    fields = ["--set", "ademvl.scales=16,4", "--set", "memvp.slots=16"]
    run = ["run", "--methods", "ademvl,memvp,frozen", "--task", "scienceqa", *size, *fields, *where, *more]
    return [sys.executable, "-m", "harness", *run]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    mini_scienceqa.write(tmp_path / "data", seed=0, train=32, val=2, test=60)
    return os.environ | {"OMP_NUM_THREADS": "1", "VLTUNE_CACHE": str(tmp_path / "cache")}


def finish(words: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=LONGEST_S)
    assert done.returncode == 0, done.stdout + done.stderr


def finished(root: Path) -> dict[str, Record]:
    found = [record for record in Store(root).read() if record.status == "ok"]
    assert len({record.cell.method for record in found}) == len(found), "a cell was finished twice"
    return {record.cell.method: record for record in found}


def same(a: Path, b: Path) -> None:
    """The same cells, scores and answers."""
    first, second = finished(a), finished(b)
    assert first.keys() == second.keys() == {"ademvl", "memvp", "frozen"}
    for method, record in first.items():
        other = second[method]
        assert other.metrics == record.metrics
        assert _sha(other) == _sha(record)
        losses = [(Store(root).samples(one) or {}).get("train_loss") for root, one in ((a, record), (b, other))]
        assert losses[0] == losses[1]
    assert check(b) == []
    assert list(b.glob("unfinished/*")) == []


def _sha(record: Record) -> str:
    assert record.predictions is not None
    return record.predictions.sha256


def wait_for(path: Path, pattern: str, process: subprocess.Popen[Any]) -> None:
    started = time.monotonic()
    while not list(path.glob(pattern)):
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() - started < LONGEST_S
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "isolate"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_run_that_is_asked_to_leave_goes_on_later(
    number: signal.Signals,
    isolate: bool,
    tiny_folders: tuple[Path, Path],
    tmp_path: Path,
    environment: dict[str, str],
) -> None:
    more = ["--isolate"] if isolate else []
    finish(command(tiny_folders, tmp_path, "whole", *more), environment)
    words = command(tiny_folders, tmp_path, "stopped", *more)
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(tmp_path / "stopped", "unfinished/*/training-*", process)
    process.send_signal(number)
    asked = time.monotonic()
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    assert time.monotonic() - asked < 10
    assert "the same command goes on" in said
    [kept] = (tmp_path / "stopped").glob("unfinished/*/training-*/state.json")
    step = json.loads(kept.read_text())["step"]
    finish(words, environment)
    resumed = finished(tmp_path / "stopped")["ademvl"]
    assert resumed.provenance["resumed_at_steps"] == [step]
    assert resumed.meters["energy_joules"].value is None  # type: ignore[union-attr]
    interrupted = [record for record in Store(tmp_path / "stopped").read() if record.status == "interrupted"]
    assert [record.cell.method for record in interrupted] == ["ademvl"]
    same(tmp_path / "whole", tmp_path / "stopped")


MOMENTS = {
    "between answers and record": "real = store._write_once; store._write_once = lambda path, chunks: "
    "kill() if path.suffix == '.json' else real(path, chunks)",
    "in the middle of the answers": "store._publish = lambda *_: kill()",
    "between the name of the record and the end of its writing": "real = store._publish; store._publish = lambda one, "
    "path: (real(one, path), kill() if path.suffix == '.json' else None)",
    "between record and end": "Keeper.forget = lambda self: kill()",
    "before what was trained is saved": "own.save = lambda *_, **__: kill()",
    "between what was trained and record": "store.Store.append = lambda *_, **__: kill()",
    "in the middle of the evaluation": "keeper.MOST_SHARE = 1e9; real = KeptAnswers.keep; "
    "KeptAnswers.keep = lambda *all: (real(*all), kill())",
}
KILLED = """
import os, sys
from harness import cli, store
from harness.checkpoints import own
from harness.resume import keeper
from harness.resume.answers import KeptAnswers
from harness.resume.keeper import Keeper

def kill():
    os.kill(os.getpid(), 9)

{moment}
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_a_run_that_is_killed_at_a_certain_moment_leaves_nothing_behind(
    moment: str,
    tiny_folders: tuple[Path, Path],
    tmp_path: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = command(tiny_folders, tmp_path, "killed", "--save", "--steps", "4")[3:]
    words[words.index("--methods") + 1] = "llava"
    del words[(at := words.index("--set")) : at + 4]  # the fields of other methods
    script = [sys.executable, "-c", KILLED.format(moment=moment), *words]
    assert subprocess.run(script, env=environment, capture_output=True).returncode == -9
    monkeypatch.setenv("VLTUNE_CACHE", environment["VLTUNE_CACHE"])
    assert cli.main(words) == 0
    root = tmp_path / "killed"
    [record] = Store(root).read()
    assert record.status == "ok"
    assert check(root) == []
    assert list(root.glob("unfinished/*")) == list(root.glob("claims/*")) == []
    assert list((tmp_path / "cache").glob("features/*")) == []
    [saved] = root.glob("adapters/*/*/*/*")
    assert saved.name == record.run_id
    resumed = "KeptAnswers" in moment
    for name in ("eval_wall_s", "eval_peak_bytes", "eval_rise_bytes"):
        meter = record.meters[name]
        was = "the evaluation was interrupted and went on in another process"
        assert not resumed or (isinstance(meter, Unavailable) and meter.reason == was)
    if resumed:
        assert record.meters["infer_ms_per_sample_batched"].value > 0  # type: ignore[union-attr, operator]


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_was(
    tiny_folders: tuple[Path, Path], tmp_path: Path, environment: dict[str, str]
) -> None:
    started = time.monotonic()
    finish(command(tiny_folders, tmp_path, "whole"), environment)
    whole_s = time.monotonic() - started
    chance, kills, matrices = random.Random(0), 0, 0
    while kills < KILLS:
        matrices += 1
        words = command(tiny_folders, tmp_path, f"killed {matrices}")
        while kills < KILLS and not ended_within(chance.uniform(0.3, 1.0) * whole_s, words, environment):
            kills += 1
        finish(words, environment)
        same(tmp_path / "whole", tmp_path / f"killed {matrices}")


def ended_within(seconds: float, words: list[str], environment: dict[str, str]) -> bool:
    """Whether a run ended by itself; else it was killed."""
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True
