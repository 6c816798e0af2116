from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tasks
from tasks import DataError, Example, Prediction, Task
from tests.tasks.fake_model import FakeModel

Problem = Callable[..., dict[str, Any]]
Write = Callable[..., Path]


def load(folder: Path, split: Any = "test", limit: int | None = None, **options: Any) -> tuple[Task, list[Example]]:
    task = tasks.get("scienceqa", **options)
    return task, task.examples(split, folder, limit=limit)


def test_training_text_has_prompt_and_answer(write: Write) -> None:
    task, examples = load(write(), "train")
    assert task.texts(examples, train=True) == [
        (
            "Question: Which is red?\nContext: Look at the picture.\n"
            "Options: (A) the ball (B) the cube (C) neither\nResponse:",
            "The answer is B.",
        )
    ]


def test_evaluation_prompt_leads_into_the_answer(write: Write) -> None:
    task, examples = load(write())
    [(prompt, answer)] = task.texts(examples, train=False)
    assert prompt.endswith("\nResponse:The answer is")
    assert answer == ""


def test_training_and_evaluation_are_set_apart(write: Write) -> None:
    folder = write(captions={"1": "A red cube.", "3": "A blue cube."})
    task, examples = load(folder, train_format="CQM-AE", eval_format="QM-A", eval_captions=True)
    [(train_prompt, answer)] = task.texts(examples, train=True)
    [(prompt, _)] = task.texts(examples, train=False)
    assert train_prompt.startswith("Context: N/A\nQuestion: ")
    assert answer == "The answer is B. BECAUSE: Red is a colour."
    assert prompt.startswith("Question: Which is red?\nOptions: ")


@pytest.mark.parametrize("train", [False, True])
def test_captions_go_where_they_are_wanted(write: Write, train: bool) -> None:
    folder = write(captions={"3": "A blue cube."})
    task, examples = load(folder, **{"train_captions" if train else "eval_captions": True})
    assert "A blue cube." in task.texts(examples, train=train)[0][0]
    assert "A blue cube." not in task.texts(examples, train=not train)[0][0]


@pytest.mark.parametrize("norm", ["imagenet", "clip", "backbone"])
def test_batch_carries_normalised_pictures(write: Write, make_problem: Problem, norm: str) -> None:
    folder = write({"1": make_problem(image=None), "2": make_problem()}, {"test": ["1", "2"]})
    task, examples = load(folder, image_norm=norm)
    mean, std = {
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        "backbone": ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    }[norm]
    batch = task.batch(FakeModel(), examples, train=False)
    assert batch["images"][0] is None
    assert examples[1].image is not None
    with Image.open(examples[1].image) as picture:
        squashed = np.asarray(picture.convert("RGB").resize((8, 8), Image.Resampling.BICUBIC))
    expected = ((squashed / 255 - np.array(mean)) / np.array(std)).transpose(2, 0, 1)
    np.testing.assert_allclose(batch["images"][1].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("train", [False, True])
def test_batch_carries_answers_only_in_training(write: Write, train: bool) -> None:
    task, examples = load(write())
    batch = task.batch(FakeModel(), examples, train=train)
    assert batch["prompts"] == [task.texts(examples, train=train)[0][0]]
    assert batch["answers"] == (["The answer is B."] if train else None)
    assert task.loss(FakeModel(), batch) == 1


def three(write: Write, make_problem: Problem, **options: Any) -> tuple[Task, list[Example]]:
    problems = {str(n): make_problem(image=None, choices=[f"c{i}" for i in range(n)], answer=0) for n in (2, 3, 4)}
    return load(write(problems, {"test": ["2", "3", "4"]}), **options)


def test_likelihood_takes_the_best_letter_the_first_of_equals(write: Write, make_problem: Problem) -> None:
    task, examples = three(write, make_problem)
    model = FakeModel(logprobs=[[-2.0, -1.0], [-1.0, -1.0, -3.0], [float("-inf"), -9.0, -8.0, -7.0]])
    predictions = task.predict(model, task.batch(model, examples, train=False), examples)
    assert model.asked == [[[" A", " B"], [" A", " B", " C"], [" A", " B", " C", " D"]]]
    assert predictions == [Prediction("2", "B", 1), Prediction("3", "A", 0), Prediction("4", "D", 3)]


def test_the_likeliest_text_of_a_choice(write: Write, make_problem: Problem) -> None:
    task, examples = three(write, make_problem, train_format="QC-T", eval_format="QC-T")
    assert task.texts(examples[:1], train=True)[0][1] == "The answer is c0."
    model = FakeModel(logprobs=[[-2.0, -1.0], [-1.0, -1.0, -3.0], [-9.0, -8.0, -7.0, -6.0]])
    predictions = task.predict(model, task.batch(model, examples, train=False), examples)
    assert model.asked == [[[" c0.", " c1."], [" c0.", " c1.", " c2."], [" c0.", " c1.", " c2.", " c3."]]]
    assert predictions == [Prediction("2", "c1", 1), Prediction("3", "c0", 0), Prediction("4", "c3", 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_format": "QCM-T"}, "train_format=QCM-T teaches texts and eval_format=QCM-A asks for letters; give"),
        ({"eval_format": "QC-T"}, "train_format=QCM-A teaches letters and eval_format=QC-T asks for texts; give both"),
        ({"train_format": "QC-T", "eval_format": "QCM-T", "answer_by": "greedy"}, "answer_by=greedy reads letters, "),
        (
            {"train_format": "QC-T", "eval_format": "QC-T", "overlong": "cut"},
            "overlong=cut leaves no room",
        ),
    ],
)
def test_refuses_options_that_contradict_each_other(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tasks.get("scienceqa", **options)


def test_likelihood_that_is_not_a_number(write: Write, make_problem: Problem) -> None:
    task, examples = three(write, make_problem)
    model = FakeModel(logprobs=[[-2.0, -1.0], [float("nan"), -1.0, -3.0], [-1.0] * 4])
    with pytest.raises(ValueError, match=r"question '3' needs 3 log-probabilities, got \[nan"):
        task.predict(model, None, examples)


def test_greedy_takes_the_first_capital_of_one_token(write: Write, make_problem: Problem) -> None:
    task, examples = three(write, make_problem, answer_by="greedy")
    model = FakeModel(outputs=[" B", "D", "none"])
    predictions = task.predict(model, None, examples)
    assert model.asked == [{"max_new_tokens": 1}]
    assert predictions == [Prediction("2", " B", 1), Prediction("3", "D", None), Prediction("4", "none", None)]


def test_score_is_independent_of_order(write: Write, make_problem: Problem) -> None:
    task, examples = three(write, make_problem)
    predictions = [Prediction("2", "A", 0), Prediction("3", "B", 1), Prediction("4", "?", None)]
    scores = task.score(predictions, examples)
    assert (scores["accuracy"].successes, scores["accuracy"].n) == (1, 3)
    assert task.primary in scores
    random.Random(0).shuffle(predictions)
    assert task.score(predictions, examples[::-1]) == scores


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["2", "3"], "no prediction for '4'"),
        (["2", "3", "4", "5"], "no example for '5'"),
        (["2", "3", "4", "3"], "more than one prediction for '3'"),
    ],
)
def test_score_needs_each_prediction_once(write: Write, make_problem: Problem, ids: list[str], message: str) -> None:
    task, examples = three(write, make_problem)
    with pytest.raises(ValueError, match=message):
        task.score([Prediction(id, "A", 0) for id in ids], examples)


def test_limits_are_nested_and_ignore_file_order(write: Write, make_problem: Problem) -> None:
    folder = write({str(n): make_problem(image=None) for n in range(40)}, {"test": [str(n) for n in range(40)]})
    task, small = load(folder, limit=5)
    large = task.examples("test", folder, limit=20)
    assert small == large[:5]
    (folder / "pid_splits.json").write_text(json.dumps({"test": [str(n) for n in reversed(range(40))]}))
    assert task.examples("test", folder, limit=5) == small


@pytest.mark.parametrize("limit", [0, -3])
def test_refuses_limits_below_one(write: Write, limit: int) -> None:
    with pytest.raises(ValueError, match="limit must be at least 1"):
        load(write(), limit=limit)


def test_missing_picture_is_found_when_reading(write: Write) -> None:
    folder = write()
    (folder / "images/test/3/image.png").unlink()
    with pytest.raises(DataError, match=r"image\.png: missing picture of problem '3'.*1 of 1"):
        load(folder)


def test_prepare_finds_broken_pictures(write: Write) -> None:
    folder = write()
    path = folder / "images/test/3/image.png"
    task, examples = load(folder)
    task.prepare(examples, image_size=8)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError) as error:
        tasks.get("scienceqa").prepare(examples, image_size=8)
    assert str(error.value).startswith(f"{path}: picture cannot be decoded (")
    assert str(error.value).endswith("(1 of 1 pictures are bad)")


def test_prepared_pictures_are_not_read_again(write: Write) -> None:
    task, examples = load(write())
    task.prepare(examples, image_size=8)
    assert examples[0].image is not None
    examples[0].image.unlink()
    assert task.batch(FakeModel(), examples, train=False)["images"][0].shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("train_format", "QMC-A", r"train_format cannot be 'QMC-A'; did you mean"),
        ("eval_format", "", r"eval_format cannot be ''; known: CQM-A, "),
        ("eval_captions", "yes", r"eval_captions cannot be 'yes'; known: False, True"),
        ("image_norm", "clipp", r"image_norm cannot be 'clipp'; did you mean 'clip'\?"),
        ("answer_by", "gredy", r"answer_by cannot be 'gredy'; did you mean 'greedy'\?"),
        ("split", "train", r"split cannot be 'train'; known: test, val"),
        ("overlong", "drop", r"overlong cannot be 'drop'; known: error, cut"),
    ],
)
def test_refuses_unknown_option_values(option: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tasks.get("scienceqa", **{option: value})


def test_refuses_examples_of_another_task() -> None:
    with pytest.raises(TypeError, match="scienceqa answers questions, got Example '1'"):
        tasks.get("scienceqa").texts([Example(id="1", image=None)], train=True)


@pytest.mark.realdata
@pytest.mark.parametrize(("split", "n", "n_pictures"), [("train", 6738, 6218), ("val", 680, 500), ("test", 4241, 2017)])
def test_reads_the_real_data(shared: Path, split: str, n: int, n_pictures: int) -> None:
    _, examples = load(shared / "data", split)
    assert (len(examples), sum(example.image is not None for example in examples)) == (n, n_pictures)
