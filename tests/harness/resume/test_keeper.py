"""When a training state is kept, which one is found again, and what happens where it cannot be."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from harness.backbones.features import FeatureStore
from harness.resume import keeper as keeping
from harness.resume.every import Every
from harness.resume.keeper import Keeper
from harness.resume.training_state import StateError, TrainingState
from tests.harness.resume.test_training_state import state

BELONGS = {"cell": "c"}


def keeper(folder: Path, said: list[str] | None = None, **every: float) -> Keeper:
    lines = [] if said is None else said
    return Keeper(folder, BELONGS, Every(**every), lines.append)  # type: ignore[arg-type]


def test_the_last_whole_state_is_found_and_older_ones_go(tmp_path: Path) -> None:
    first = keeper(tmp_path / "cell")
    assert first.latest() is None
    for step in (3, 5):
        assert first.keep(state(step))
    assert [path.name for path in (tmp_path / "cell").iterdir()] == ["training-00000005"]
    second = keeper(tmp_path / "cell")
    found = second.latest()
    assert found is not None
    assert (found.step, second.resumed) == (5, [1, 5])


def test_a_damaged_state_is_passed_over_with_a_word(tmp_path: Path) -> None:
    keeper(tmp_path / "cell").keep(state(3))
    shutil.copytree(tmp_path / "cell" / "training-00000003", tmp_path / "cell" / "training-00000009")
    (tmp_path / "cell" / "training-00000009" / "tensors.safetensors").write_bytes(b"cut")
    said: list[str] = []
    found = keeper(tmp_path / "cell", said).latest()
    assert found is not None
    assert found.step == 3
    assert "training-00000009" in said[0]
    assert said[1:] == [f"goes on from step 3, kept in {tmp_path / 'cell' / 'training-00000003'}"]


def test_a_state_that_does_not_fit_is_passed_over_with_a_word(tmp_path: Path) -> None:
    keeper(tmp_path / "cell").keep(state(3))

    def restore(state: TrainingState) -> None:
        raise StateError("it is of other parameters")

    said: list[str] = []
    again = keeper(tmp_path / "cell", said)
    assert again.latest(restore) is None
    assert again.resumed == []
    assert said == [f"not continued: {tmp_path / 'cell' / 'training-00000003'}: it is of other parameters"]


def test_states_are_due_by_steps_or_minutes_but_never_at_a_great_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(keeping.time, "monotonic", lambda: clock[0])
    by_step = keeper(tmp_path, steps=10)
    clock[0] += 5
    assert [step for step in range(13) if by_step.due(step, 1000)] == [10, 11, 12]
    assert not by_step.due(10, int(5 * keeping.BYTES_PER_S)), "it would take as long as the training so far"
    by_time = keeper(tmp_path, minutes=0.5)
    clock[0] += 29
    assert not by_time.due(1, 1000)
    clock[0] += 1
    assert by_time.due(1, 1000)
    assert not by_time.due(0, 1000), "nothing has been done"
    by_time.stop.requested = True
    assert by_time.due(1, 10**15), "the run leaves"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    said: list[str] = []
    assert not keeper(tmp_path / "cell", said).keep(state())
    assert "cannot be kept" in said[0]


def test_a_file_in_the_way_is_said_and_the_training_goes_on(tmp_path: Path) -> None:
    (tmp_path / "cell").write_text("a file")
    said: list[str] = []
    assert not keeper(tmp_path / "cell", said).keep(state())
    assert "the training state cannot be kept" in said[0]


def test_features_are_of_one_cell_of_one_results_folder_and_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path / "cache"))
    here, there = keeper(tmp_path / "a" / "cell"), keeper(tmp_path / "b" / "cell")
    newer = Keeper(tmp_path / "a" / "cell", {"cell": "c", "code": "newer"}, Every(), lambda line: None)
    assert len({here.features, there.features, newer.features}) == 3
    assert keeper(tmp_path / "a" / "cell").features == here.features
    store = tmp_path / "cache" / "features"
    for name in (here.features, there.features):
        FeatureStore(store, capacity=1, name=name).close()
    FeatureStore(store, capacity=1, name=newer.features).close()
    assert {path.name for path in store.iterdir()} == {newer.features, there.features}, "other code's are of no use"
    here.forget()
    assert [path.name for path in store.iterdir()] == [there.features], "another folder's are its own"


def test_the_end_replaces_the_same_step(tmp_path: Path) -> None:
    kept = keeper(tmp_path / "cell")
    kept.keep(state(3))
    kept.keep(dataclasses.replace(state(3), ended="name"))
    found = keeper(tmp_path / "cell").latest()
    assert found is not None
    assert found.ended == "name"
