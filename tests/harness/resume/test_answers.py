"""Predictions kept as they are made: what was whole comes back, what was cut does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import tasks
from harness.resume.answers import KeptAnswers
from tasks import Prediction
from tasks.coco_caption import CaptionPrediction
from tasks.retrieval import Embedded
from tests.full_disk import files_up_to

BELONGS = {"weights": "w"}


Kept = Callable[..., KeptAnswers]


@pytest.fixture
def kept() -> Iterator[Kept]:
    """Opens the file as a new process does: whoever had it open before has it closed."""
    opened: list[KeptAnswers] = []

    def call(path: Path, task: str = "scienceqa", said: list[str] | None = None, **belongs: str) -> KeptAnswers:
        for one in opened:
            one.close()
        say = ([] if said is None else said).append
        opened.append(KeptAnswers(path, {**BELONGS, **belongs}, tasks.get(task), say))
        return opened[-1]

    yield call
    for one in opened:
        one.close()


def test_batches_come_back_in_another_process(kept: Kept, tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "answers.jsonl"
    first = kept(path)
    batch = [Prediction("1", "the answer\u2028is ü", 2), Prediction("2", "", None)]
    first.keep(batch, 12.5)
    first.keep([Prediction("3", "x")], 1.0)
    second = kept(path)
    assert second.of(["1", "2"]) == (batch, 12.5)
    assert second.of(["2", "1"]) is None, "another batch"
    assert len(second) == 2
    second.keep([Prediction("4", "y")], 1.0)
    assert len(kept(path)) == 3


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_that_was_cut_is_made_again(kept: Kept, cut: int, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    first = kept(path)
    first.keep([Prediction("1", "x")], 1.0)
    first.keep([Prediction("2", "y")], 1.0)
    path.write_bytes(path.read_bytes()[:-cut])
    second = kept(path)
    assert second.of(["1"]) is not None
    assert second.of(["2"]) is None
    second.keep([Prediction("2", "y")], 1.0)
    assert len(kept(path)) == 2


def test_what_is_whole_stays_where_the_disk_takes_no_more(kept: Kept, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    kept(path).keep([Prediction("1", "x" * 50)], 1.0)
    path.write_bytes(path.read_bytes() + b"cut")
    before, said = path.read_bytes(), list[str]()
    with files_up_to(20):
        full = kept(path, said=said)
    assert path.read_bytes() == before
    assert full.of(["1"]) is not None
    assert full.used == 1
    assert len(said) == 1
    assert "answers are not kept" in said[0]
    assert [one.name for one in tmp_path.iterdir()] == ["answers.jsonl"]


def test_a_line_that_was_written_in_part_is_told(kept: Kept, tmp_path: Path) -> None:
    path, said = tmp_path / "answers.jsonl", list[str]()
    first = kept(path, said=said)
    first.keep([Prediction("1", "x")], 1.0)
    with files_up_to(path.stat().st_size + 10):
        first.keep([Prediction("2", "x")], 1.0)
        first.keep([Prediction("3", "x")], 1.0)
    assert len(said) == 1
    assert "answers are not kept from here on" in said[0]
    assert len(kept(path)) == 1


def test_answers_of_other_weights_are_dropped(kept: Kept, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    kept(path).keep([Prediction("1", "x")], 1.0)
    assert len(kept(path, weights="others")) == 0
    assert len(kept(path)) == 0


def test_features_keep_every_bit(kept: Kept, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    vectors = torch.randn(2, 7)
    kept(path, "retrieval").keep([Embedded(str(n), "", vector=vector) for n, vector in enumerate(vectors)], 1.0)
    found = kept(path, "retrieval").of(["0", "1"])
    assert found is not None
    assert all(torch.equal(one.vector, vector) for one, vector in zip(found[0], vectors, strict=True))  # type: ignore[attr-defined]


def test_each_task_has_its_own_kinds_of_predictions_only(kept: Kept, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    said: list[str] = []
    strange = kept(path, "scienceqa", said)
    strange.keep([Embedded("1", "", vector=torch.zeros(1))], 1.0)
    assert len(said) == 1
    assert "not kept" in said[0]
    kept(path, "coco_caption").keep([_caption()], 1.0)
    assert kept(path, "coco_caption").of(["1"]) == ([_caption()], 1.0)


def _caption() -> CaptionPrediction:
    return CaptionPrediction("1", "a dog", cider=0.1 + 0.2)
