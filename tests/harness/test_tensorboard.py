"""`--tensorboard`: scalars that TensorBoard reads, live, of runs whose records are what they are without."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness import cli, tensorboard
from harness.record import Record, cell_key
from harness.store import Store
from harness.tensorboard import Board
from harness.train import Step
from tasks.mini import scienceqa as mini_scienceqa
from tests.harness.report.records import make

if TYPE_CHECKING:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="needs tensorboard: the extra profile"
)

Run = Callable[..., int]
STEPS = 6
HOSTILE = "<script>alert(1)</script>\n../../x | \x1b[31m \u202e"


@pytest.fixture(scope="session")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("problems") / "scienceqa"
    mini_scienceqa.write(root, train=12, val=4, test=4)
    return root


@pytest.fixture
def vltune(tiny_folders: tuple[Path, Path], problems: Path, tmp_path: Path) -> Run:
    def call(*extra: str, methods: str = "memvp", results: str = "results") -> int:
        llm, vision = map(str, tiny_folders)
        where = ["--llm", llm, "--vision", vision, "--data-root", str(problems), "--results", str(tmp_path / results)]
        sizes = ["--steps", str(STEPS), "--batch-size", "4", "--device", "cpu"]
        slots = ["--set", "memvp.slots=16"] if "memvp" in methods else []
        return cli.main(["run", "--methods", methods, "--task", "scienceqa", *where, *sizes, *slots, *extra])

    return call


def events(folder: Path) -> EventAccumulator:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def boards(results: Path) -> list[Path]:
    """The folders of runs, below the one of their seed."""
    return sorted(path.parent for path in (results / tensorboard.FOLDER).rglob("events.out.*"))


def records(results: Path) -> list[Record]:
    return Store(results).read()


def test_losses_rates_scores_and_meters_are_read_back(vltune: Run, tmp_path: Path) -> None:
    assert vltune("--tensorboard") == 0
    [record], [folder] = records(tmp_path / "results"), boards(tmp_path / "results")
    samples = Store(tmp_path / "results").samples(record)
    assert samples is not None
    backbone = Store(tmp_path / "results").folder(record).parts[-3]
    assert folder.parent == tmp_path / "results" / "tensorboard" / backbone / "scienceqa" / "memvp" / "seed-0"
    assert record.run_id.startswith(folder.name)
    found = events(folder)
    loss = found.Scalars("train/loss")
    assert [event.step for event in loss] == list(range(1, STEPS + 1))
    assert [event.value for event in loss] == pytest.approx(samples["train_loss"])
    rates = [event.value for event in found.Scalars("train/learning_rate")]
    assert len(rates) == STEPS
    assert rates[0] == 0
    assert max(rates) > 0
    [accuracy] = found.Scalars("scores/accuracy")
    assert (accuracy.step, accuracy.value) == (STEPS, pytest.approx(record.metrics["accuracy"].value))
    [params] = found.Scalars("meters/trainable_params")
    assert params.value == record.meters["trainable_params"].value  # type: ignore[union-attr]
    assert found.Scalars("meters/train_step_ms")
    assert "meters/energy_joules" in found.Tags()["scalars"] or record.meters["energy_joules"].value is None  # type: ignore[union-attr]
    assert record.run_id in found.Tensors("record/text_summary")[0].tensor_proto.string_val[0].decode()
    assert {name.partition("/")[2] for name in found.summary_metadata if name.startswith("_hparams_")} == {
        "experiment",
        "session_start_info",
        "session_end_info",
    }


def test_nothing_of_a_run_is_changed(vltune: Run, tmp_path: Path) -> None:
    assert vltune(results="without") == 0
    assert vltune("--tensorboard", results="with") == 0
    [before], [after] = records(tmp_path / "without"), records(tmp_path / "with")
    assert cell_key(before.cell) == cell_key(after.cell)
    assert before.cell == after.cell
    assert before.metrics == after.metrics
    kinds = [Store(tmp_path / name).samples(record) or {} for name, record in (("without", before), ("with", after))]
    assert kinds[0]["train_loss"] == kinds[1]["train_loss"]
    assert before.predictions is not None
    assert after.predictions is not None
    assert before.predictions.sha256 == after.predictions.sha256
    assert not (tmp_path / "without" / tensorboard.FOLDER).exists()


def test_a_run_that_is_kept_writes_nothing(vltune: Run, tmp_path: Path) -> None:
    assert vltune() == 0
    assert vltune("--tensorboard") == 0
    assert not boards(tmp_path / "results")


def test_every_cell_of_a_matrix_has_a_folder_also_in_processes_of_their_own(vltune: Run, tmp_path: Path) -> None:
    assert vltune("--tensorboard", "--isolate", "--seeds", "0,1") == 0
    assert [folder.parent.name for folder in boards(tmp_path / "results")] == ["seed-0", "seed-1"]
    assert vltune("--tensorboard", "--fresh") == 0
    assert len(boards(tmp_path / "results")) == 3


def test_a_missing_package_is_one_line_before_any_work(
    vltune: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(name: str, *more: Any) -> Any:
        return None if name == "tensorboard" else real(name, *more)

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", find)
    assert vltune("--tensorboard") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "vltune: error: --tensorboard: the package tensorboard is missing; pip install 'vltune[profile]'\n"
    )
    assert not (tmp_path / "results").exists()


def test_steps_are_on_the_disk_while_training_goes_on(tmp_path: Path) -> None:
    board = Board(tmp_path, "run")
    board.step(Step(1, 0.5, 0.1))
    end = time.monotonic() + 5 * tensorboard.FLUSH_S
    while "train/loss" not in (found := events(tmp_path)).Tags()["scalars"]:
        assert time.monotonic() < end, "nothing was written"
        time.sleep(0.2)
    assert found.Scalars("train/loss")[0].value == 0.5
    board.end(make(1))


def test_an_error_is_said_once_and_costs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    board = Board(tmp_path / "file" / "run", "[1/2] memvp")
    board.step(Step(1, 0.5, 0.1))
    board.step(Step(2, 0.5, 0.1))
    board.end(make(1))
    err = capsys.readouterr().err
    assert err.startswith("[1/2] memvp: nothing more for TensorBoard: ")
    assert err.count("\n") == 1


def test_a_failed_run_has_its_record_as_text(tmp_path: Path) -> None:
    board = Board(tmp_path, "run")
    board.step(Step(1, 0.5, 0.1))
    board.end(make(1, status="failed", reason="out of memory"))
    found = events(tmp_path)
    assert found.Tags()["scalars"] == ["train/loss", "train/learning_rate"]
    assert b"out of memory" in found.Tensors("record/text_summary")[0].tensor_proto.string_val[0]


def test_hostile_names_stay_within_the_folder(tmp_path: Path) -> None:
    record = make(1, method=HOSTILE, task=HOSTILE, backbone="..", settings={HOSTILE: HOSTILE}, more={HOSTILE: 1.0})
    folder = tensorboard.folder(tmp_path, record.cell, datetime.now(UTC))
    assert folder.resolve().is_relative_to(tmp_path / tensorboard.FOLDER)
    assert len(folder.relative_to(tmp_path).parts) == 6
    board = Board(folder, "run")
    board.step(Step(1, 0.5, 0.1))
    board.end(record)
    assert "scores/accuracy" in events(folder).Tags()["scalars"]
    assert [path.name for path in tmp_path.iterdir()] == [tensorboard.FOLDER]
