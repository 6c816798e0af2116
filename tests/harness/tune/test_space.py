"""What `run --tune` searches: which values, in what ranges, and what is refused before any work."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from harness import cli, space
from harness.plan import CellPlan, TrainOptions
from methods.blind import Blind
from methods.memvp import MemVP
from tasks.scienceqa import ScienceQA
from tests.harness.tune.tuned import Captured, Run, records

pytest.importorskip("optuna")


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--tune", "0"], "--tune: must be a whole number of at least 1, got '0'"),
        (["--tune", "-3"], "--tune: must be a whole number of at least 1, got '-3'"),
        (["--tune", "2.5"], "--tune: must be a whole number of at least 1, got '2.5'"),
        (["--tune-seconds", "9"], "--tune-seconds: goes with --tune N; add it or drop this"),
        (["--tune-share", "0.1"], "--tune-share: goes with --tune N; add it or drop this"),
        (["--tune", "2", "--tune-share", "0"], "--tune-share: must be above 0 and at most 1, got '0'"),
        (["--tune", "2", "--tune-seconds", "0"], "--tune-seconds: must be a whole number of at least 1, got '0'"),
        (["--tune", "2", "--set", "scienceqa.split=val"], "scienceqa.split=val would score the chosen on it too"),
        (["--tune", "2", "--methods", "full", "--set", "train.lr=1"], "--set leaves nothing of full to search"),
    ],
)
def test_what_makes_no_sense_is_one_line_before_any_work(
    extra: list[str], said: str, tmp_path: Path, capsys: Captured
) -> None:
    where = ["--results", str(tmp_path / "results"), "--device", "cpu"]
    assert cli.main(["run", "--methods", "memvp", "--task", "scienceqa", *where, *extra]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert not records(tmp_path)


def test_without_optuna_the_fix_is_named(
    vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert vltune() == 2
    assert "--tune needs Optuna, which is not installed: pip install 'vltune[tune]'" in capsys.readouterr().err
    assert not records(tmp_path)


def cell(method: Any, **changes: Any) -> CellPlan:
    plain = CellPlan(
        method_name="blind" if isinstance(method, Blind) else "memvp",
        method=method,
        task_name="scienceqa",
        task=ScienceQA(),
        seed=0,
        train=TrainOptions(steps=10, lr=0.5),
        explicit={},
    )
    return dataclasses.replace(plain, **changes)


def test_what_the_command_line_sets_is_not_searched() -> None:
    assert list(space.ranges(cell(MemVP()))) == ["memvp.scale", "memvp.image_scale", "train.lr"]
    fixed = {"memvp.scale": 0.1, "train.lr": 0.5, "train.steps": 10}
    assert list(space.ranges(cell(MemVP(), explicit=fixed))) == ["memvp.image_scale"]
    assert list(space.ranges(cell(Blind(of="memvp"), explicit=fixed))) == ["memvp.image_scale"]
    assert space.ranges(cell(MemVP(), train=TrainOptions(steps=0, lr=0.5))) == {}


def test_ranges_hold_the_cells_own_values() -> None:
    found = space.ranges(cell(MemVP(scale=3.0, image_scale=0.0)))
    assert (found["memvp.scale"].low, found["memvp.scale"].high) == (1e-3, 3.0)
    assert "memvp.image_scale" not in found, "a log scale has no 0"
    assert (found["train.lr"].low, found["train.lr"].high) == (0.05, 5.0)
    assert space.own_values(cell(MemVP(scale=3.0))) == {
        "memvp.scale": 3.0,
        "memvp.image_scale": 0.01,
        "train.lr": 0.5,
    }


def test_values_reach_the_method_and_the_learning_rate() -> None:
    values = {"memvp.scale": 0.7, "train.lr": 0.2}
    assert space.with_values(cell(MemVP(slots=9)), values).method == MemVP(slots=9, scale=0.7)
    blind = space.with_values(cell(Blind(of="memvp", fields=(("scale", 1.0), ("slots", 9)))), values)
    assert isinstance(blind.method, Blind)
    assert blind.method.inner() == MemVP(slots=9, scale=0.7)
    assert blind.train == TrainOptions(steps=10, lr=0.2)
