"""Runs in processes of their own."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.parallel import isolation
from harness.record import Record
from harness.store import Store, StoreError
from tasks.mini import scienceqa as mini_scienceqa


def test_a_call_runs_in_another_process() -> None:
    assert isolation.apart(os.getpid) != os.getpid()
    assert isolation.apart(math.gcd, 12, 18) == 6


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        (signal.SIGKILL, "it was ended by SIGKILL, as when memory runs out"),
        (signal.SIGABRT, "it was ended by SIGABRT"),
    ],
)
def test_a_process_that_is_killed_is_named(ending: signal.Signals, message: str) -> None:
    with pytest.raises(isolation.ProcessEndedError, match=f"^{message}$"):
        isolation.apart(signal.raise_signal, ending)


def test_an_error_comes_back() -> None:
    with pytest.raises(isolation.ProcessEndedError, match="it raised ValueError: .*'x'"):
        isolation.apart(int, "x")


@pytest.fixture
def arguments(tiny_folders: tuple[Path, Path], tmp_path: Path) -> list[str]:
    mini_scienceqa.write(tmp_path / "data", train=8, val=2, test=12)
    llm, vision = map(str, tiny_folders)
    where = ["--llm", llm, "--vision", vision, "--data-root", str(tmp_path / "data")]
    options = ["--task", "scienceqa", "--device", "cpu", "--steps", "2", "--batch-size", "4", "--set", "lora.rank=2"]
    return ["run", "--methods", "lora,frozen", *options, *where, "--results"]


def records(folder: Path) -> dict[str, Record]:
    return {record.cell.method: record for record in Store(folder).read()}


@pytest.mark.slow
def test_runs_of_their_own_processes_give_the_same(arguments: list[str], tmp_path: Path) -> None:
    assert cli.main([*arguments, str(tmp_path / "here")]) == 0
    assert cli.main([*arguments, str(tmp_path / "apart"), "--isolate"]) == 0
    here, apart = records(tmp_path / "here"), records(tmp_path / "apart")
    for method in ("lora", "frozen"):
        assert apart[method].metrics == here[method].metrics
        assert apart[method].predictions == here[method].predictions or (
            apart[method].predictions.sha256 == here[method].predictions.sha256  # type: ignore[union-attr]
        )
        assert (here[method].provenance["isolated"], apart[method].provenance["isolated"]) == (False, True)
    assert cli.main([*arguments, str(tmp_path / "apart"), "--isolate"]) == 0
    assert len(Store(tmp_path / "apart").read()) == 2, "runs that are recorded are kept"


def test_what_ends_the_run_ends_it_from_a_process_of_its_own_too(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = isolation.apart
    monkeypatch.setattr(isolation, "apart", lambda call, *others: real(full_disk))
    assert cli.main([*arguments, str(tmp_path / "results"), "--isolate"]) == 2
    assert capsys.readouterr().err == "vltune: error: disk full: choose another --results DIR\n"
    assert records(tmp_path / "results") == {}


def full_disk() -> None:
    raise StoreError("disk full: choose another --results DIR")


def test_a_cell_that_ends_while_the_run_is_asked_to_leave_is_the_last(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def apart(call: Callable[..., Any], *given: Any) -> Any:
        result = call(*given)
        with contextlib.suppress(KeyboardInterrupt):  # it is waited for, and had just ended
            signal.raise_signal(signal.SIGTERM)
        return result

    monkeypatch.setattr(isolation, "apart", apart)
    assert cli.main([*arguments, str(tmp_path / "results"), "--isolate"]) == 130
    assert set(records(tmp_path / "results")) == {"lora"}
    assert "1 of 2 cells not done" in capsys.readouterr().out


def test_a_process_that_is_killed_once_it_has_recorded_its_cell_is_no_failure(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apart(call: Callable[..., Any], *given: Any) -> Any:
        call(*given)
        raise isolation.ProcessEndedError("it was ended by SIGKILL")

    monkeypatch.setattr(isolation, "apart", apart)
    assert cli.main([*arguments, str(tmp_path / "results"), "--isolate"]) == 0
    assert [record.status for record in Store(tmp_path / "results").read()] == ["ok", "ok"]


def test_a_run_whose_process_is_killed_is_recorded_and_the_others_go_on(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = isolation.apart

    def apart(call: object, plan: object, *others: object) -> object:
        if plan.cells[0].method_name == "lora":  # type: ignore[attr-defined]
            return real(signal.raise_signal, signal.SIGKILL)
        return real(call, plan, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(isolation, "apart", apart)
    assert cli.main([*arguments, str(tmp_path / "results"), "--isolate"]) == 1
    found = records(tmp_path / "results")
    assert (found["lora"].status, found["frozen"].status) == ("failed", "ok")
    assert found["lora"].reason == "the process of this run ended: it was ended by SIGKILL, as when memory runs out"
