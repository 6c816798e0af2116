"""Parts of the examples are those of the data that a run used, or it is said why they cannot be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tasks
from harness import prepare
from harness.record import Record
from harness.settings import UsageError
from harness.statistics.subsets import only
from tasks import ExampleScore
from tasks.mini import coco_caption as mini_captions
from tasks.mini import scienceqa as mini_scienceqa
from tests.records import make


def recorded(root: Path, task: str, *, eval_limit: int | None = None, **options: Any) -> tuple[Record, dict[str, Any]]:
    """A run on the data of `root`, and its scores."""
    asked = tasks.get(task, **options)
    train, evaluation = prepare.read_splits(asked, root, train_limit=None, eval_limit=eval_limit, needs_train=True)
    record = make(task=task, data__sha256=prepare.fingerprint([*train, *evaluation]), run__eval_limit=eval_limit)
    record.cell.options["task"] = options
    return record, {example.id: ExampleScore(example.id, 1.0) for example in evaluation}


def test_a_part_of_a_limited_split(tmp_path: Path) -> None:
    mini_scienceqa.write(tmp_path, train=4, val=20, test=2)
    record, scores = recorded(tmp_path, "scienceqa", eval_limit=12, split="val")
    found = only("img", scores=lambda _: scores, root=tmp_path)(record)
    examples = tasks.get("scienceqa", split="val").examples("val", tmp_path, limit=12)
    assert set(found) == {example.id for example in examples if example.image is not None}
    assert 0 < len(found) < 12


def test_a_part_without_examples(tmp_path: Path) -> None:
    mini_scienceqa.write(tmp_path, train=4, val=2, test=20)
    record, scores = recorded(tmp_path, "scienceqa")
    part = only("img", scores=lambda _: {}, root=tmp_path)
    assert part(record) == {}
    pictured = only("img", scores=lambda _: scores, root=tmp_path)(record)
    others = {id: score for id, score in scores.items() if id not in pictured}
    with pytest.raises(UsageError, match=r"--only img: none of the examples of run"):
        only("img", scores=lambda _: others, root=tmp_path)(record)


def test_a_task_without_parts(tmp_path: Path) -> None:
    mini_captions.write(tmp_path, train=2, val=2, test=4)
    record, scores = recorded(tmp_path, "coco_caption")
    with pytest.raises(UsageError, match=r"--only img: coco_caption has no parts"):
        only("img", scores=lambda _: scores, root=tmp_path)(record)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"answer_by": "luck"}, "cannot be split into parts: .*answer_by cannot be 'luck'"), ({"x": 1}, "no option 'x'")],
)
def test_a_run_of_another_version(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    mini_scienceqa.write(tmp_path, train=4, val=2, test=4)
    record, scores = recorded(tmp_path, "scienceqa")
    record.cell.options["task"] = options
    with pytest.raises(UsageError, match=message):
        only("img", scores=lambda _: scores, root=tmp_path)(record)
