"""`run --tune`: equal trials for all methods, chosen on the validation split alone, once for all seeds."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import cli, run, space, tune
from harness.plan import CellPlan, TrainOptions
from harness.record import Record, cell_key
from harness.resume.claims import Claim, Claims
from harness.store import Store
from harness.tables.leaderboard import frame
from harness.train import DivergedError
from methods.blind import Blind
from methods.memvp import MemVP
from tasks import Example, ExampleScore, Metric, Prediction
from tasks.mini import scienceqa as mini_scienceqa
from tasks.scienceqa import ScienceQA

pytest.importorskip("optuna")
Run = Callable[..., int]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tuned") / "scienceqa"
    mini_scienceqa.write(root, train=16, val=10, test=12)
    return root


@pytest.fixture
def vltune(tiny_folders: tuple[Path, Path], problems: Path, tmp_path: Path) -> Run:
    """`vltune run --tune 3` on the tiny backbone, with trials of 2 of 4 steps."""

    def call(
        *extra: str, methods: str = "memvp", results: str = "results", data: Path = problems, trials: int | None = 3
    ) -> int:
        llm, vision = map(str, tiny_folders)
        where = ["--llm", llm, "--vision", vision, "--data-root", str(data), "--results", str(tmp_path / results)]
        sizes = ["--set", "memvp.slots=16"] if "memvp" in methods else []
        sizes += ["--set", "ademvl.scales=16,4"] if "ademvl" in methods or "blind" in methods else []
        tuned = [] if trials is None else ["--tune", str(trials), "--tune-share", "0.5"]
        options = ["--steps", "4", "--batch-size", "4", "--set", "train.warmup=0", "--device", "cpu", *sizes, *tuned]
        return cli.main(["run", "--methods", methods, "--task", "scienceqa", *where, *options, *extra])

    return call


def records(tmp_path: Path, results: str = "results") -> list[Record]:
    return Store(tmp_path / results).read()


def report(record: Record) -> dict[str, Any]:
    return record.provenance["tuning"]  # type: ignore[no-any-return]


def trials(record: Record) -> list[dict[str, Any]]:
    """What does not depend on the clock."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in report(record)["trials"]]


def set_scores(monkeypatch: pytest.MonkeyPatch, values: Sequence[float | None]) -> None:
    """The validation scores of a whole tuning, in their order."""
    left = iter(values)

    def checked(*_: object) -> Metric:
        if (value := next(left)) is None:
            raise DivergedError("the loss is nan at step 1 of 2; lower train.lr")
        return Metric(value, "%", "max", 10)

    monkeypatch.setattr(tune, "_checked", checked)
    monkeypatch.setattr(tune, "_p_value", lambda *_: None)  # there are no answers to test


RUN_OFF_WON = [60.0, 61.0]
"""Scores of the run's own values and of those that were found."""


def forbid_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(*_: object, **__: object) -> None:
        raise AssertionError("something was tuned")

    monkeypatch.setattr(tune, "search", search)


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
    [row] = frame([zero, one]).to_dict("records")
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
    rows = {row["settings"]: row["method"] for row in frame([tuned, plain, by_hand]).to_dict("records")}
    # `memvp.slots` is given by hand in all of them.
    assert rows["tuned, 3 trials"] == "memvp (tuned, 3 trials)"
    assert set(rows) == {"tuned, 3 trials", "set by hand"}
    assert [row["method"] for row in frame([plain]).to_dict("records")] == ["memvp"]
    other = plain.model_copy(update={"cell": plain.cell.model_copy(update={"explicit": {"train.steps": 4}})})
    assert [row["settings"] for row in frame([other]).to_dict("records")] == ["defaults"]


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
