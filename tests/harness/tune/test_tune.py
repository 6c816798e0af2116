"""`run --tune`: equal trials for all methods, chosen on the validation split alone, once for all seeds."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import cli, run, tune
from harness.record import cell_key
from harness.resume.claims import Claim, Claims
from tasks import Example, Metric, Prediction
from tasks.scienceqa import ScienceQA
from tests.harness.tune.tuned import RUN_OFF_WON, Captured, Run, forbid_search, records, report, set_scores, trials
from tests.records import json_rows

pytest.importorskip("optuna")


def test_every_trained_method_gets_as_many_trials_and_runs_with_the_best(
    vltune: Run, tmp_path: Path, capsys: Captured
) -> None:
    assert vltune(methods="ademvl,memvp,blind,frozen") == 0
    found = {record.cell.method: record for record in records(tmp_path)}
    assert "tuning" not in found["frozen"].provenance
    assert "tuning" not in found["frozen"].cell.options
    searched = {"ademvl": {"ademvl.alpha", "ademvl.beta", "ademvl.drop_ratio", "train.lr"}}
    searched |= {"blind": searched["ademvl"], "memvp": {"memvp.scale", "memvp.image_scale", "train.lr"}}
    for method, names in searched.items():
        told, options = report(found[method]), found[method].cell.options
        rows = told["trials"]
        assert [row["number"] for row in rows] == [0, 1, 2]
        assert all(set(row["values"]) == names for row in rows)
        assert all(row["steps"] == {"complete": 2, "pruned": 1}[row["state"]] for row in rows)
        assert (told["split"], told["examples"], told["steps"], told["metric"]) == ("val", 10, 2, "accuracy")
        assert options["tuning"]["trials"] == 3
        best = rows[told["best"]]
        assert told["values"] == best["values"]
        top = max(row["score"] for row in rows if row["score"] is not None)
        if (played := told["run_off"]) is not None:
            assert rows[played["found"]["number"]]["score"] == top
            assert (played["own"]["number"], played["own"]["values"]) == (0, rows[0]["values"])
            assert played["own"]["steps"] == played["found"]["steps"] == 4, (
                "of trials of 2, and a run of no more than 4"
            )
        assert best["score"] == top if played is None or played["won"] else best["number"] == 0
        fields = dict(options["method"]["fields"]) if method == "blind" else options["method"]
        chosen = {name.split(".")[1]: value for name, value in told["values"].items()}
        assert options["train"]["lr"] == chosen.pop("lr")
        assert {name: fields[name] for name in chosen} == chosen
        assert options["train"]["steps"] == 4
    assert report(found["memvp"])["trials"][0]["values"] == {
        "memvp.scale": 0.1,
        "memvp.image_scale": 0.01,
        "train.lr": 9e-3 * 4 / 256,
    }
    out = capsys.readouterr().out
    assert "tuning on scienceqa: 3 trials for each method, of 2 steps, scored on 10 examples of val" in out
    assert "  memvp: memvp.scale, memvp.image_scale, train.lr" in out
    assert out.index("searched:") < out.index("trial 1 of 3")
    assert "| memvp (tuned, 3 trials)" in out.replace("**", "")
    assert "| frozen " in out


def test_a_poisoned_test_split_changes_nothing_of_a_tuning(
    vltune: Run, tmp_path: Path, problems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every right answer of the test split is made wrong, and no score of it is read before the choice is made."""
    poisoned = shutil.copytree(problems, tmp_path / "poisoned")
    content, splits = (json.loads((poisoned / name).read_text()) for name in ("problems.json", "pid_splits.json"))
    for name in splits["test"]:
        content[name]["answer"] = (content[name]["answer"] + 1) % len(content[name]["choices"])
    (poisoned / "problems.json").write_text(json.dumps(content))
    scored, during = list[set[str]](), list[set[str]]()
    real_score, real_search = ScienceQA.score, tune.search

    def score(self: ScienceQA, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, Metric]:
        scored.append({example.id for example in examples})
        return real_score(self, predictions, examples)  # type: ignore[arg-type]

    def search(*arguments: Any, **named: Any) -> dict[str, Any]:
        before = len(scored)
        try:
            return real_search(*arguments, **named)
        finally:
            during.extend(scored[before:])

    monkeypatch.setattr(ScienceQA, "score", score)
    monkeypatch.setattr(tune, "search", search)
    assert vltune("--set", "train.lr=0.05", methods="ademvl,memvp", results="good") == 0
    assert vltune("--set", "train.lr=0.05", methods="ademvl,memvp", results="bad", data=poisoned) == 0
    assert during
    assert set().union(*during) == set(splits["val"])
    good, bad = ({record.cell.method: record for record in records(tmp_path, name)} for name in ("good", "bad"))
    for method in ("ademvl", "memvp"):
        assert trials(good[method]) == trials(bad[method])
        assert report(good[method])["values"] == report(bad[method])["values"]
        assert good[method].metrics["accuracy"].value != bad[method].metrics["accuracy"].value


@pytest.mark.slow
def test_the_same_command_gives_the_same_trials_here_and_in_a_process_of_its_own(vltune: Run, tmp_path: Path) -> None:
    assert vltune() == 0
    assert vltune("--isolate", results="apart") == 0
    [here], [apart] = records(tmp_path), records(tmp_path, "apart")
    assert trials(here) == trials(apart)
    assert here.cell.options == apart.cell.options
    assert here.metrics == apart.metrics


def test_seeds_share_what_is_chosen_once_and_finished_runs_are_kept(
    vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert vltune() == 0
    [first] = records(tmp_path)
    forbid_search(monkeypatch)
    assert vltune() == 0
    assert f"kept {first.run_id}" in capsys.readouterr().out
    assert vltune("--seeds", "0,1") == 0
    zero, one = records(tmp_path)
    assert (zero, one.cell.seed) == (first, 1)
    assert one.cell.options == zero.cell.options
    assert report(one) == report(zero)
    [row] = json_rows([zero, one])
    assert (row["method"], row["settings"], row["seeds"]) == ("memvp (tuned, 3 trials)", "tuned, 3 trials", [0, 1])
    assert vltune("--fresh") == 1
    assert "something was tuned" in str(records(tmp_path)[-1].reason)


def test_a_method_is_tuned_by_one_process_for_all_seeds(
    vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    real, asked = Claims.take, list[str]()

    def take(self: Claims, key: str) -> Claim | dict[str, Any]:
        """Another process has the first seed for a while."""
        asked.append(key)
        held = key == asked[0] and asked.count(key) < 4
        return {"pid": 7, "host": "far"} if held else real(self, key)

    monkeypatch.setattr(run, "WAIT_S", 0.1)
    monkeypatch.setattr(Claims, "take", take)
    assert vltune("--seeds", "0,1") == 0
    said = capsys.readouterr().out
    assert said.count("left to process 7 on far, which runs it") == 2, "the other seed waits for what it chooses"
    assert said.count("trial 1 of 3") == 1
    assert len(records(tmp_path)) == 2


def test_fresh_begins_a_tuned_run_anew(vltune: Run, tmp_path: Path, capsys: Captured) -> None:
    assert vltune() == 0
    [record] = records(tmp_path)
    begun = tmp_path / "results" / "unfinished" / cell_key(record.cell) / "training-00000001"
    begun.mkdir(parents=True)
    assert vltune("--fresh") == 0
    assert "not continued" not in capsys.readouterr().out
    # Without it what was begun is looked at.
    begun.mkdir(parents=True)
    shutil.rmtree(tmp_path / "results" / "runs")
    assert vltune() == 0
    assert f"not continued: {begun}" in capsys.readouterr().out


def test_tuned_and_other_runs_never_share_a_row(vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_scores(monkeypatch, [90.0, 90.0, 10.0, 10.0, 10.0, 10.0])
    assert vltune() == 0
    assert vltune(trials=None) == 0
    assert vltune("--set", "memvp.scale=0.5", trials=None) == 0
    tuned, plain, by_hand = records(tmp_path)
    assert report(tuned)["best"] == 0
    assert tuned.cell.options == plain.cell.options | {"tuning": tuned.cell.options["tuning"]}
    assert tuned.cell.options["tuning"]["of"] == cell_key(plain.cell)
    assert set(plain.cell.options) == {"method", "task", "train", "run", "data"}
    assert "tuning" not in plain.provenance
    rows = {row["settings"]: row["method"] for row in json_rows([tuned, plain, by_hand])}
    # `memvp.slots` is given by hand in all of them.
    assert rows["tuned, 3 trials"] == "memvp (tuned, 3 trials)"
    assert set(rows) == {"tuned, 3 trials", "set by hand"}
    assert [row["method"] for row in json_rows([plain])] == ["memvp"]
    other = plain.model_copy(update={"cell": plain.cell.model_copy(update={"explicit": {"train.steps": 4}})})
    assert [row["settings"] for row in json_rows([other])] == ["defaults"]


def test_a_trial_below_the_median_at_half_time_is_pruned(
    vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_scores(monkeypatch, [50.0, 55.0, 60.0, 65.0, 40.0, 56.0, 70.0, *RUN_OFF_WON])
    assert vltune(trials=4) == 0
    [record] = records(tmp_path)
    rows = trials(record)
    assert [row["state"] for row in rows] == ["complete", "complete", "pruned", "complete"]
    assert [row["score"] for row in rows] == [55.0, 65.0, None, 70.0]
    assert [row["halfway"] for row in rows] == [50.0, 60.0, 40.0, 56.0]
    assert [row["steps"] for row in rows] == [2, 2, 1, 2]
    assert "below the median" in rows[2]["reason"]
    assert (report(record)["best"], report(record)["score"]) == (3, 70.0)


def test_a_diverged_trial_is_one_failed_trial(vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_scores(monkeypatch, [50.0, 50.0, None, 40.0, 50.0])
    assert vltune() == 0
    [record] = records(tmp_path)
    states = [(row["state"], row["reason"]) for row in report(record)["trials"]]
    assert [state for state, _ in states][:2] == ["complete", "failed"]
    assert states[1][1] == "the loss is nan at step 1 of 2; lower train.lr"
    assert report(record)["best"] == 0, "of equal scores the first"


def test_a_method_whose_trials_all_diverge_fails_and_the_others_go_on(vltune: Run, tmp_path: Path) -> None:
    assert vltune("--set", "train.lr=1e30", "--seeds", "0,1", methods="memvp,frozen") == 1
    memvp, other = (record for record in records(tmp_path) if record.cell.method == "memvp")
    assert {record.status for record in records(tmp_path) if record.cell.method == "frozen"} == {"ok"}
    for record in (memvp, other):
        assert record.status == "failed"
        assert str(record.reason).startswith("tuning chose nothing: none of 3 trials has a score; the first: ")
        assert [row["state"] for row in report(record)["trials"]] == ["failed"] * 3
        assert record.cell.options["tuning"]["trials"] == 3


def test_an_error_of_a_trial_fails_the_cell_with_its_traceback(
    vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_search(monkeypatch)
    assert vltune() == 1
    [record] = records(tmp_path)
    assert record.reason == "AssertionError: something was tuned"
    assert "Traceback" in str(record.traceback)
    assert record.cell.options["tuning"]["trials"] == 3


def test_no_trial_begins_after_the_seconds_and_the_first_always_does(
    vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(step=100.0)
    monkeypatch.setattr(tune, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert vltune("--tune-seconds", "1") == 0
    [record] = records(tmp_path)
    assert [row["number"] for row in report(record)["trials"]] == [0]
    assert record.cell.options["tuning"]["seconds"] == 1


def test_a_tuned_run_is_reproduced_without_tuning(
    vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert vltune("--seeds", "1", methods="blind") == 0
    [record] = records(tmp_path)
    forbid_search(monkeypatch)
    where = ["--results", str(tmp_path / "results"), "--out", str(tmp_path / "again")]
    assert cli.main(["reproduce", record.run_id, *where]) == 0
    assert "Every score and every prediction is the same." in capsys.readouterr().out


def test_data_without_a_validation_split_are_refused_before_training(
    vltune: Run, tmp_path: Path, problems: Path, capsys: Captured
) -> None:
    lacking = shutil.copytree(problems, tmp_path / "lacking")
    splits = json.loads((lacking / "pid_splits.json").read_text())
    (lacking / "pid_splits.json").write_text(json.dumps(splits | {"val": []}))
    assert vltune(data=lacking) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "pid_splits.json" in line
    assert "val" in line
    assert not records(tmp_path)
    assert vltune(data=lacking, trials=None) == 0
