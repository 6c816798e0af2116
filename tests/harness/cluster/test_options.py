"""Flags of the Ray executor: what does not go together is told at once."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from harness import cli
from harness.cluster import options
from harness.parallel.launch import ALONE

RAY = ("--executor", "ray")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ray-address", "a:1"], "--ray-address: goes with --executor ray"),
        (["--cpus-per-cell", "2"], "--cpus-per-cell: goes with --executor ray"),
        (["--memory-per-cell", "2"], "--memory-per-cell: goes with --executor ray"),
        ([*RAY, "--memory-per-cell", "0"], "argument --memory-per-cell: must be above 0, got '0'"),
        ([*RAY, "--gpus", "0"], "--gpus and --workers: Ray hands out"),
        ([*RAY, "--workers", "2"], "--gpus and --workers: Ray hands out"),
        ([*RAY, "--tune", "4"], "--tune: settings are chosen on one machine"),
        ([*RAY, "--no-isolate"], "--no-isolate: each cell has a process of its own"),
        ([*RAY, "--device", "cuda:1"], "--device cuda:1: with Ray each cell has the GPU that it is given"),
        ([*RAY, "--ray-address", "ray://a:1"], "--ray-address ray://a:1: write HOST:PORT"),
        ([*RAY, "--ray-address", "here"], "--executor ray: no Ray cluster at here"),
        ([*RAY, "--ray-address", "127.0.0.1:1"], "--executor ray: no Ray cluster at 127.0.0.1:1"),
        (["--shard", "3/2"], "argument --shard: must be I/N such as 2/8, with I from 1 to N, got '3/2'"),
        (["--shard", "1/2", "--tune", "4"], "--shard: settings of --tune hold for all seeds"),
    ],
)
def test_mistakes_are_told_at_once(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    assert cli.main(["run", "--methods", "lora", "--task", "scienceqa", "--results", str(tmp_path), *flags]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_without_ray_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else real(name, *more))
    assert cli.main(["run", "--methods", "lora", "--task", "scienceqa", "--results", str(tmp_path), *RAY]) == 2
    assert "--executor ray needs Ray, which is not installed: pip install 'vltune[cluster]'" in capsys.readouterr().err


def test_a_gpu_need_not_be_where_the_driver_is() -> None:
    pytest.importorskip("ray")
    words = ["run", "--methods", "lora", "--task", "scienceqa", *RAY, "--device", "cuda:0", "--memory-per-cell", "1.5"]
    args = cli.parser().parse_args(words)
    assert options.device(args, ALONE) == "cuda:0"
    assert options.options(args) == options.Options(None, None, 3 * 2**29)
    assert options.options(cli.parser().parse_args(words[:5])) is None


def test_a_shard_without_a_cell_is_no_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--methods", "lora,frozen", "--task", "scienceqa", "--results", str(tmp_path), "--shard", "3/3"]
    assert cli.main(words) == 0
    assert capsys.readouterr().out == "shard 3/3 of the matrix has no cell: nothing to run\n"
