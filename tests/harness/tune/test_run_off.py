"""The run-off of `run --tune`: the best trial is taken where it beats the run's own values at greater length."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import tune
from tasks import Example, ExampleScore, Prediction
from tests.harness.tune.tuned import Captured, Run, records, report, set_scores

pytest.importorskip("optuna")


@pytest.mark.parametrize(
    ("scores", "best"), [([70.0, 65.0], 0), ([70.0, 70.0], 0), ([70.0, 75.0], 1), ([None, 50.0], 1), ([70.0, None], 0)]
)
def test_the_best_trial_has_to_win_a_longer_run_off(
    scores: list[float | None],
    best: int,
    vltune: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    set_scores(monkeypatch, [50.0, 50.0, 60.0, 60.0, *scores])
    assert vltune(trials=2) == 0
    [record] = records(tmp_path)
    told = report(record)
    assert (told["best"], told["values"]) == (best, told["trials"][best]["values"])
    assert told["run_off"]["won"] is (best == 1)
    assert [told["run_off"][name]["score"] for name in ("own", "found")] == scores
    assert record.cell.options["train"]["lr"] == told["values"]["train.lr"]
    own, found = ("failed" if score is None else f"complete {score:.2f} %" for score in scores)
    kept = "trial 2 is taken" if best else "the run's own values stay"
    assert f"run-off: own values {own}, trial 2 {found}: {kept}\n" in capsys.readouterr().out


def test_values_that_fail_twice_are_not_chosen(vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_scores(monkeypatch, [None, 60.0, 60.0, None, None])
    assert vltune(trials=2) == 1
    [record] = records(tmp_path)
    assert (record.status, report(record)["best"]) == ("failed", None)
    assert str(record.reason).startswith("tuning chose nothing: both trainings of the run-off failed; the first: ")


def test_trials_as_long_as_the_run_have_no_run_off(
    vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    set_scores(monkeypatch, [50.0, 50.0, 60.0, 60.0])
    assert vltune("--tune-share", "1", trials=2) == 0
    [record] = records(tmp_path)
    assert (report(record)["best"], report(record)["run_off"]) == (1, None)
    assert "nothing longer for a run-off: trial 2 is taken" in capsys.readouterr().out


@pytest.mark.parametrize(("won", "lost", "p_value"), [(9, 1, 0.021484375), (5, 3, 0.7265625), (0, 0, 1.0)])
def test_the_run_off_is_tested_on_the_same_examples(won: int, lost: int, p_value: float) -> None:
    examples = [Example(str(number), None) for number in range(20)]

    def parts(right: set[int]) -> dict[str, ExampleScore]:
        return {example.id: ExampleScore(example.id, 100.0 * (int(example.id) in right)) for example in examples}

    scores = {"own": parts(set(range(lost))), "found": parts(set(range(lost, lost + won)))}
    task = SimpleNamespace(example_scores=lambda answers, _: scores[answers[0].id])
    job: Any = SimpleNamespace(cell=SimpleNamespace(task=task), data=SimpleNamespace(evaluation=examples))
    found = tune._p_value(job, [Prediction("own", "")], [Prediction("found", "")])
    assert found == pytest.approx(p_value)
