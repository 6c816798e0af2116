"""Answers: only the predictions that a record names count, and the scores by example stand in them."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest

from harness.record import NamedFile, Record
from harness.report import answers, questions
from harness.report.answers import NoAnswersError
from harness.statistics.paired import Incomparable
from harness.store import Store
from tasks import ExampleScore
from tasks.mini import scienceqa
from tests.harness.report.records import captions, make

LINES = [{"id": "1", "output": "A", "choice": 0, "score": 100.0, "group": "picture"}]


def saved(root: Path, lines: list[dict[str, object]] | None) -> tuple[Store, Record]:
    store = Store(root)
    store.append(make(1), lines)
    [record] = store.read()
    return store, record


def test_scores_are_those_that_the_run_wrote(tmp_path: Path) -> None:
    lines = captions(["a", "b"], random.Random(0), 50)
    store, record = saved(tmp_path, lines)
    assert answers.scores(store)(record) == {line["id"]: ExampleScore(line["id"], line["cider"]) for line in lines}


def test_older_predictions_and_runs_without_any_have_no_scores(tmp_path: Path) -> None:
    store, record = saved(tmp_path, [{"id": "1", "output": "A", "choice": 0}])
    assert answers.scores(store)(record) == {}
    assert answers.scores(store)(make(2)) == {}


def test_scores_that_cannot_be_used_are_a_reason(tmp_path: Path) -> None:
    store, record = saved(tmp_path, LINES)
    assert record.predictions is not None
    beside = store.folder(record) / record.predictions.file
    with pytest.raises(Incomparable, match="made without the results folder"):
        answers.scores(None)(record)
    beside.write_text(beside.read_text(encoding="utf-8").replace("100", "0"), encoding="utf-8")
    with pytest.raises(Incomparable, match=r"^2026-00000001\.predictions\.jsonl is not the file .* edited or cut$"):
        answers.scores(store)(record)
    beside.unlink()
    with pytest.raises(Incomparable, match=r"^2026-00000001\.predictions\.jsonl cannot be read"):
        answers.scores(store)(record)


@pytest.mark.parametrize(
    "line",
    [
        '{"id": "1", "score": NaN, "group": "1"}',
        '{"id": "1", "score": 1e999, "group": "1"}',
        '{"id": "1", "score": -1e308, "group": "1"}',
        '{"id": "1", "score": "much", "group": "1"}',
        '{"id": "1", "score": 1.0}',
        '{"id": "1", "score": 1.0, "group": ["1"]}',
        "{",
    ],
)
def test_scores_that_no_run_writes_are_refused(tmp_path: Path, line: str) -> None:
    store, record = saved(tmp_path, LINES)
    assert record.predictions is not None
    file = record.predictions.file
    (store.folder(record) / file).write_text(f"{line}\n", encoding="utf-8")
    named = NamedFile(file=file, sha256=hashlib.sha256(f"{line}\n".encode()).hexdigest())
    with pytest.raises(Incomparable, match="does not hold the scores that a run writes"):
        answers.scores(store)(record.model_copy(update={"predictions": named}))


def test_prompts_and_right_answers_stand_in_the_data(tmp_path: Path) -> None:
    scienceqa.write(tmp_path, seed=0, train=8, val=8, test=8)
    ids = json.loads((tmp_path / "pid_splits.json").read_text(encoding="utf-8"))["test"]
    record = make(1)
    known = questions.load(record, [tmp_path / "none", tmp_path], frozenset(ids))
    assert known is not None
    assert all(known.truths[id].startswith("The answer is") for id in ids)
    assert all("Question:" in known.prompts[id] for id in ids)
    assert questions.load(record, [tmp_path], frozenset(["other"])) is None
    assert questions.load(make(2, task="not a task"), [tmp_path], frozenset(ids)) is None
    assert questions.load(make(2, run={"eval_limit": "many"}), [tmp_path], frozenset(ids)) is None


def test_line_separators_within_an_answer_end_no_line(tmp_path: Path) -> None:
    store = Store(tmp_path)
    given = [{"id": "1", "output": "a\u2028b\x85c\nd"}]
    store.append(make(1), given)
    assert answers.read(store.read()[0], store) == given


def test_a_changed_or_missing_file_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.append(make(1), [{"id": "1", "output": "A", "choice": 0}])
    [record] = store.read()
    assert record.predictions is not None
    assert answers.read(record, store) == [{"id": "1", "output": "A", "choice": 0}]
    beside = path.with_name(record.predictions.file)
    beside.write_text(beside.read_text(encoding="utf-8").replace("A", "B"), encoding="utf-8")
    with pytest.raises(NoAnswersError, match="was edited or cut"):
        answers.read(record, store)
    beside.unlink()
    with pytest.raises(NoAnswersError, match="cannot be read"):
        answers.read(record, store)
    with pytest.raises(NoAnswersError, match="no saved predictions"):
        answers.read(make(2), store)


@pytest.mark.parametrize("lines", [[{"output": "A"}], [{"id": "1"}, {"id": "1"}], [{"id": 1}], [{"id": ["1"]}]])
def test_lines_that_are_no_predictions_are_refused(tmp_path: Path, lines: list[dict[str, object]]) -> None:
    store = Store(tmp_path)
    store.append(make(1), lines)
    with pytest.raises(NoAnswersError):
        answers.read(store.read()[0], store)
