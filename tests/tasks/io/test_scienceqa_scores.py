from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.io.scienceqa_problems import Question, find_folder, read_questions
from tasks.io.scienceqa_scores import score_choices

PUBLISHED = {
    "avg": "accuracy",
    **{name: f"accuracy_{name.lower()}" for name in ("NAT", "SOC", "LAN", "TXT", "IMG", "NO")},
}


def question(id: str, *, image: bool = False, **fields: Any) -> Question:
    return Question(
        id=id, image=Path("image.png") if image else None, question="?", choices=("a", "b"), answer=0, **fields
    )


QUESTIONS = [
    question("1", image=True, hint="h", subject="natural science", grade="grade6"),
    question("2", subject="natural science", grade="grade7"),
    question("3", image=True, subject="social science", grade="grade12"),
    question("4", hint="h", grade=""),
]


def test_every_column_and_its_n() -> None:
    scores = score_choices({"1": 0, "2": 0, "3": 1, "4": None}, QUESTIONS)
    counts = {name: (metric.successes, metric.n) for name, metric in scores.items()}
    assert counts == {
        "accuracy": (2, 4),
        "accuracy_nat": (2, 2),
        "accuracy_soc": (0, 1),
        "accuracy_lan": (0, 0),
        "accuracy_txt": (1, 2),
        "accuracy_img": (1, 2),
        "accuracy_no": (1, 1),
        "accuracy_g1_6": (1, 1),
        "accuracy_g7_12": (1, 2),
    }
    assert scores["accuracy"].value == 50
    assert {(metric.unit, metric.goal) for metric in scores.values()} == {("%", "max")}


def test_values_are_not_rounded() -> None:
    scores = score_choices({"1": 0, "2": 1, "3": 1}, QUESTIONS[:3])
    assert scores["accuracy"].value == pytest.approx(100 / 3, abs=1e-12)


def test_a_column_without_examples_has_a_reason() -> None:
    scores = score_choices({"4": 0}, QUESTIONS[3:])
    reasons = {name: metric.reason for name, metric in scores.items() if metric.value is None}
    assert reasons == {
        "accuracy_nat": "no example has the subject 'natural science'",
        "accuracy_soc": "no example has the subject 'social science'",
        "accuracy_lan": "no example has the subject 'language science'",
        "accuracy_img": "no example has a picture",
        "accuracy_no": "every example has a hint or a picture",
        "accuracy_g1_6": "no example has a grade from 1 to 6",
        "accuracy_g7_12": "no example has a grade from 7 to 12",
    }
    assert all(metric.reason is None for metric in scores.values() if metric.value is not None)


def test_order_does_not_matter() -> None:
    choices = {"1": 0, "2": 1, "3": 0, "4": 1}
    backwards = dict(reversed(choices.items()))
    assert score_choices(choices, QUESTIONS) == score_choices(backwards, QUESTIONS[::-1])


@pytest.mark.parametrize(
    ("choices", "questions", "message"),
    [
        ({"1": 0}, QUESTIONS[:2], "no prediction for '2'"),
        ({"1": 0, "2": 0}, QUESTIONS[:1], "no example for '2'"),
        ({"1": 0}, QUESTIONS[:1] * 2, "more than one example for '1'"),
    ],
)
def test_exactly_one_choice_per_question(
    choices: dict[str, int | None], questions: list[Question], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        score_choices(choices, questions)


@pytest.mark.realdata
def test_golden_official_scores(shared: Path) -> None:
    golden = json.loads((shared / "golden/scienceqa_prompt/scores.json").read_text(encoding="utf-8"))
    questions = [
        Question(
            id=qid,
            image=Path("image.png") if item["has_image"] else None,
            question="?",
            choices=("",) * item["n_choices"],
            answer=item["answer"],
            hint="h" if item["has_hint"] else "",
            subject=item["subject"],
            grade=item["grade"],
        )
        for qid, item in golden["items"].items()
    ]
    scores = score_choices(golden["predictions"], questions)
    names = ("average", "natural", "social", "language", "has_text", "has_image", "no_context")
    for name, metric in zip((*names, "grade_1_6", "grade_7_12"), scores.values(), strict=True):
        assert f"{metric.value:.2f}" == golden["scores"][f"acc_{name}"], name
        assert metric.n == golden["counts"][f"acc_{name}"], name


@pytest.mark.realdata
@pytest.mark.parametrize("answers", ["gpt3_cot", "llava_v1.5_13b"])
def test_published_scores(shared: Path, answers: str) -> None:
    folder = shared / "golden/scienceqa_scores"
    expected = json.loads((folder / "expected.json").read_text())[answers]
    choices = json.loads((folder / f"{answers}.json").read_text())
    questions = read_questions(find_folder(shared / "data"), "test", captions=False)
    scores = score_choices(choices, questions)
    for column, (value, n) in expected["columns_value_and_n"].items():
        assert scores[PUBLISHED[column]].value == pytest.approx(value, abs=0.0051), column
        assert scores[PUBLISHED[column]].n == n, column
    for column, value in expected["published"].items():
        assert scores[PUBLISHED[column]].value == pytest.approx(value, abs=0.01), column
