"""Whole runs through the command line, on a tiny random backbone and a handful of generated problems."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import cli, run
from harness.backbones.decoder import DecoderModel
from harness.meters import flops
from harness.record import METERS, Record, Unavailable
from harness.store import Store
from harness.train import forward_backward
from tasks.mini import scienceqa as mini_scienceqa
from tests.waiting import wait

Run = Callable[..., int]


@pytest.fixture(scope="session")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data with spaces") / "scienceqa"
    mini_scienceqa.write(root, train=24, val=6, test=12)
    return root


@pytest.fixture
def vltune(tiny_folders: tuple[Path, Path], problems: Path, tmp_path: Path) -> Run:
    """`vltune run` on the tiny backbone with the given arguments, two steps long."""

    def call(*extra: str, methods: str = "memvp", results: str = "results", sized: bool = True) -> int:
        llm, vision = map(str, tiny_folders)
        where = ["--llm", llm, "--vision", vision, "--data-root", str(problems), "--results", str(tmp_path / results)]
        length = [] if "--epochs" in extra else ["--steps", "2"]
        sizes = ["--set", "memvp.slots=16"] if sized and "memvp" in methods else []
        sizes += ["--set", "ademvl.scales=16,4"] if sized and ("ademvl" in methods or "blind" in methods) else []
        options = [*where, *length, "--batch-size", "4", "--device", "cpu", *sizes, *extra]
        return cli.main(["run", "--methods", methods, "--task", "scienceqa", *options])

    return call


def records(tmp_path: Path, results: str = "results") -> list[Record]:
    return Store(tmp_path / results).read()


def predictions(tmp_path: Path, results: str = "results") -> list[bytes]:
    return [path.read_bytes() for path in sorted((tmp_path / results).rglob("*.predictions.jsonl"))]


def test_a_run_leaves_a_complete_record_and_prints_the_table(
    vltune: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vltune(methods="ademvl,memvp,frozen,blind") == 0
    found = {record.cell.method: record for record in records(tmp_path)}
    assert set(found) == {"ademvl", "memvp", "frozen", "blind"}
    for record in found.values():
        assert record.status == "ok"
        assert set(record.meters) == set(METERS)
        assert record.metrics["accuracy"].n == 12
    assert found["frozen"].meters["trainable_params"].value == 0  # type: ignore[union-attr]
    assert "not trained" in found["frozen"].meters["train_step_ms"].reason  # type: ignore[union-attr]
    assert found["ademvl"].meters["train_step_ms"].median > 0  # type: ignore[union-attr]
    assert found["memvp"].meters["adapter_bytes"].value > 4 * found["memvp"].meters["trainable_params"].value  # type: ignore[union-attr, operator]
    step = {name: record.meters["train_flops_per_sample"] for name, record in found.items()}
    assert step["ademvl"].value > step["blind"].value > 0  # type: ignore[union-attr, operator]
    assert all(record.meters["infer_flops_per_sample"].value > 0 for record in found.values())  # type: ignore[union-attr, operator]
    energy = found["ademvl"].meters["energy_joules"]
    assert "rapl" in energy.reason.lower() if isinstance(energy, Unavailable) else energy.value >= 0  # type: ignore[union-attr, operator]
    assert "ademvl,memvp,frozen,blind" in found["ademvl"].provenance["argv"]
    out = capsys.readouterr().out
    assert all(f"| {name}" in out or f"| **{name}" in out for name in found)


def test_predictions_lie_beside_the_record_one_line_per_example(vltune: Run, tmp_path: Path, problems: Path) -> None:
    vltune()
    (record,) = records(tmp_path)
    (lines,) = predictions(tmp_path)
    rows = [json.loads(line) for line in lines.splitlines()]
    assert {row["id"] for row in rows} == set(json.loads((problems / "pid_splits.json").read_text())["test"])
    assert statistics.fmean(row["score"] for row in rows) == pytest.approx(record.metrics["accuracy"].value)
    assert all(row["group"] == row["id"] for row in rows)
    assert record.predictions is not None
    problems_by_id = json.loads((problems / "problems.json").read_text())
    right = sum(row["choice"] == problems_by_id[row["id"]]["answer"] for row in rows)
    assert record.metrics["accuracy"].value == pytest.approx(100 * right / 12)


def test_the_same_cell_is_kept_unless_fresh(vltune: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vltune() == 0
    assert vltune() == 0
    assert "kept" in capsys.readouterr().out
    assert len(records(tmp_path)) == 1
    assert vltune("--fresh") == 0
    assert len(records(tmp_path)) == 2
    assert vltune("--set", "memvp.scale=0.2") == 0
    assert len(records(tmp_path)) == 3


def test_one_seed_gives_byte_equal_predictions_and_metrics(vltune: Run, tmp_path: Path) -> None:
    vltune(methods="ademvl,memvp")
    vltune(methods="ademvl,memvp", results="again")
    assert predictions(tmp_path) == predictions(tmp_path, "again")
    first, second = ([r.metrics for r in records(tmp_path, name)] for name in ("results", "again"))
    assert first == second


@pytest.mark.parametrize("asked", ["answer_by=likelihood", "answer_by=greedy", "train_format=QC-T eval_format=QC-T"])
def test_predictions_do_not_depend_on_the_evaluation_batch(vltune: Run, tmp_path: Path, asked: str) -> None:
    options = [word for option in asked.split() for word in ("--set", f"scienceqa.{option}")]
    for size in (1, 2, 8):
        assert vltune("--set", f"train.eval_batch_size={size}", *options, results=str(size)) == 0
    one, two, eight = (predictions(tmp_path, str(size)) for size in (1, 2, 8))
    assert one == two == eight


def test_predictions_do_not_depend_on_the_order_of_the_file(
    vltune: Run, tmp_path: Path, problems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vltune(methods="frozen")
    splits = problems / "pid_splits.json"
    original = splits.read_text()
    shuffled = json.loads(original)
    shuffled["test"] = shuffled["test"][::-1]
    try:
        splits.write_text(json.dumps(shuffled))
        vltune(methods="frozen", results="shuffled")
    finally:
        splits.write_text(original)
    (one,), (other,) = predictions(tmp_path), predictions(tmp_path, "shuffled")
    assert one.splitlines() == other.splitlines()[::-1]


def test_what_the_backbone_lacks_is_skipped_with_its_reason(
    vltune: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vltune("--set", "memvp.slots=7", methods="frozen,memvp", sized=False) == 0
    skipped = next(r for r in records(tmp_path) if r.cell.method == "memvp")
    assert (skipped.status, skipped.metrics) == ("skipped", {})
    assert "16 patches, more than memvp.slots=7" in str(skipped.reason)
    assert "more than memvp.slots=7" in capsys.readouterr().out


def test_a_matrix_says_after_each_cell_how_far_it_is(vltune: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def said() -> list[str]:
        return [line for line in capsys.readouterr().out.splitlines() if " done" in line]

    assert vltune() == 0
    assert said() == []
    assert vltune("--seeds", "0,1,2") == 0
    first, second, third = said()
    assert (first, third) == ("1 of 3 done, 1 running", "3 of 3 done")
    assert re.fullmatch(r"2 of 3 done, 1 running; about \d+ s left", second)


def test_a_failing_cell_is_recorded_and_the_others_go_on(
    vltune: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vltune("--set", "train.lr=1e30", "--epochs", "5", methods="memvp,frozen") == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if " done" in line]
    assert lines == ["0 of 2 done, 1 failed, 1 running", "1 of 2 done, 1 failed"]
    found = {record.cell.method: record for record in records(tmp_path)}
    assert found["frozen"].status == "ok"
    assert found["memvp"].status == "failed"
    assert "DivergedError: the loss is" in str(found["memvp"].reason)
    assert "Traceback" in str(found["memvp"].traceback)


def test_the_backbone_is_given_back_after_every_cell(
    vltune: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[DecoderModel] = []
    original = run._preflight
    monkeypatch.setattr(run, "_preflight", lambda bench, cell: (seen.append(bench.model), original(bench, cell))[1])
    vltune(methods="ademvl,memvp,blind")
    model = seen[0]
    modules = [*model.llm.modules(), *model.vision.modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    assert model._withheld == 0


def test_ctrl_c_leaves_an_interrupted_record(tiny_folders: tuple[Path, Path], problems: Path, tmp_path: Path) -> None:
    llm, vision = map(str, tiny_folders)
    command = [sys.executable, "-m", "harness", "run", "--methods", "llava", "--task", "scienceqa", "--steps", "100000"]
    command += ["--llm", llm, "--vision", vision, "--data-root", str(problems), "--device", "cpu"]
    command += ["--results", str(tmp_path / "results"), "--set", "train.lr=1e-9"]
    cache = tmp_path / "cache"
    # A shell's background jobs ignore Ctrl-C, and so would a child of one.
    mortal = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = os.environ | {"VLTUNE_CACHE": str(cache)}
    with subprocess.Popen(command, text=True, env=environment, preexec_fn=mortal, **pipes) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "checking 1 cell: data, weights and prompts of llm+clip\n"
            assert "1 cell on" in process.stdout.readline()
            # The first step has looked at pictures; 100,000 steps take longer than any machine waits here.
            wait(lambda: process.poll() is not None or any(cache.glob("features/*/index")), "it trains")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    (record,) = records(tmp_path)
    assert record.status == "interrupted"
    [kept] = (tmp_path / "results").glob("unfinished/*/training-*")
    step = int(kept.name.removeprefix("training-"))
    reason = f"stopped by the user (Ctrl-C or SIGTERM); its training is kept up to step {step}"
    assert record.reason == reason
    assert out.endswith("1 of 1 cell not done: the same command goes on with what is left\n"), "no table"
    assert "Traceback" not in err


def test_sigterm_while_it_starts_is_heeded_like_ctrl_c(
    tiny_folders: tuple[Path, Path], problems: Path, tmp_path: Path
) -> None:
    llm, vision = map(str, tiny_folders)
    command = [sys.executable, "-m", "harness", "run", "--methods", "frozen", "--task", "scienceqa", "--steps", "1"]
    command += ["--llm", llm, "--vision", vision, "--data-root", str(problems), "--results", str(tmp_path / "results")]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("checking 1 cell")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "vltune: interrupted\n"


def test_whoever_stops_reading_makes_no_cell_fail(
    tiny_folders: tuple[Path, Path], problems: Path, tmp_path: Path
) -> None:
    llm, vision = map(str, tiny_folders)
    command = [sys.executable, "-m", "harness", "run", "--methods", "frozen,llava", "--task", "scienceqa", "--isolate"]
    command += ["--llm", llm, "--vision", vision, "--data-root", str(problems), "--results", str(tmp_path / "results")]
    command += ["--steps", "1", "--device", "cpu"]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            while "2 cells on" not in (line := process.stdout.readline()):
                assert line, process.stderr.read()
            process.stdout.close()
            err = process.stderr.read()
            process.wait(60)
        finally:
            process.kill()
    assert process.returncode == 141, err
    assert [record.status for record in records(tmp_path)] == ["ok"], "what was recorded before anybody noticed"
    assert list((tmp_path / "results" / "claims").iterdir()) == []


def test_a_cell_that_failed_since_the_command_began_is_not_run_again_by_another_process(
    vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    began, fail = datetime.now(UTC).isoformat(), ("--set", "train.lr=1e30", "--epochs", "5")
    assert vltune(*fail) == 1
    # Another process of the same command has begun when this one did.
    monkeypatch.setenv("VLTUNE_BEGAN", began)
    assert vltune(*fail) == 1
    assert len(records(tmp_path)) == 1
    assert "(failed: DivergedError: " in capsys.readouterr().out
    # A command that is given later tries again.
    monkeypatch.delenv("VLTUNE_BEGAN")
    assert vltune(*fail) == 1
    assert len(records(tmp_path)) == 2


def test_a_cell_is_recorded_whole_though_the_run_is_asked_to_leave(
    vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Store.append

    def append(self: Store, *given: Any, **named: Any) -> Path:
        signal.raise_signal(signal.SIGTERM)
        return real(self, *given, **named)

    monkeypatch.setattr(Store, "append", append)
    assert vltune(methods="frozen,memvp") == 130
    assert [(record.cell.method, record.status) for record in records(tmp_path)] == [("frozen", "ok")]
    assert capsys.readouterr().out.endswith("1 of 2 cells not done: the same command goes on with what is left\n")


def test_meters_that_cannot_be_read_do_not_cost_the_record(
    vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    for where in ("speed.latency", "utilisation.utilisation"):
        monkeypatch.setattr(f"harness.measure.{where}", broken)
    assert vltune() == 0
    [record] = records(tmp_path)
    for name in ("infer_ms_per_sample", "train_flops_utilisation"):
        meter = record.meters[name]
        assert isinstance(meter, Unavailable)
        assert meter.reason == "could not be measured: OutOfMemoryError: CUDA out of memory."
    assert record.meters["train_flops_per_sample"].value > 0  # type: ignore[union-attr, operator]


def test_flops_are_counted_in_parts_that_fit(vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = flops.micro_batches, list[int]()

    def backward(model: Any, task: Any, parts: Any, **named: Any) -> float:
        if len(parts) < 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward_backward(model, task, parts, **named)

    def count(model: Any, task: Any, examples: Any, accumulate: int) -> list[Any]:
        seen.append(accumulate)
        return real(model, task, examples, accumulate)

    monkeypatch.setattr("harness.train.forward_backward", backward)
    monkeypatch.setattr(flops, "micro_batches", count)
    assert vltune("--batch-size", "6") == 0
    [record] = records(tmp_path)
    assert [cut["parts"] for cut in record.provenance["out_of_memory"]["training"]] == [1, 2]
    assert seen == [6], "4 parts do not divide a batch of 6"


def test_the_seeds_of_a_method_are_checked_together(
    vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, checked = run._preflight, []
    monkeypatch.setattr(run, "_preflight", lambda bench, cell: checked.append(cell.method_name) or real(bench, cell))
    assert vltune("--seeds", "0,1", methods="lora,frozen") == 0
    assert checked == ["lora", "frozen"]
    assert len(records(tmp_path)) == 4
