from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tasks.io.scienceqa_problems import Question
from tasks.io.scienceqa_prompt import FORMATS, TEXT_FORMATS, answer_text, choice_text, letter_choice, prompt_text

QUESTION = Question(
    id="1", image=None, question="Why?", choices=("so", "thus"), answer=1, hint="Think.", caption="A cube.",
    lecture="Line\ntwo.", solution="Clear.",
)  # fmt: skip


def test_prompt_parts_stand_in_the_order_of_the_format() -> None:
    assert prompt_text(QUESTION, "CQM-A", captions=False) == (
        "Context: Think.\nQuestion: Why?\nOptions: (A) so (B) thus\nResponse:"
    )
    assert prompt_text(QUESTION, "QCEM-A", captions=True) == (
        "Question: Why?\nContext: Think. A cube.\nBECAUSE: Clear.\nOptions: (A) so (B) thus\nResponse:"
    )


@pytest.mark.parametrize(
    ("format", "answer"),
    [
        ("QCM-A", "The answer is B."),
        ("QCM-LA", "Line\\ntwo. The answer is B."),
        ("QCM-ELA", "Clear. Line\\ntwo. The answer is B."),
        ("QCM-AL", "The answer is B. BECAUSE: Clear."),
        ("QCM-AE", "The answer is B. BECAUSE: Line\\ntwo."),
        ("QCM-ALE", "The answer is B. BECAUSE: Line\\ntwo. Clear."),
        ("QCM-AEL", "The answer is B. BECAUSE: Clear. Line\\ntwo."),
    ],
)
def test_answers(format: str, answer: str) -> None:
    assert answer_text(QUESTION, format) == answer


def test_reasons_that_are_missing() -> None:
    bare = dataclasses.replace(QUESTION, lecture="", solution="")
    assert answer_text(bare, "QCM-ALE") == "The answer is B. BECAUSE:"
    assert answer_text(bare, "QCM-LEA") == "The answer is B."


@pytest.mark.parametrize(
    ("hint", "caption", "context"), [("", "", "N/A"), ("", "Cap.", "Cap."), ("Hint.", "", "Hint."), (" ", " ", "N/A")]
)
def test_context(hint: str, caption: str, context: str) -> None:
    question = dataclasses.replace(QUESTION, hint=hint, caption=caption)
    assert f"\nContext: {context}\n" in prompt_text(question, "QCM-A", captions=True)


def test_double_spaces_are_replaced_once() -> None:
    question = dataclasses.replace(QUESTION, question="a  b   c")
    assert prompt_text(question, "Q-A", captions=False) == "Question: a b  c\nResponse:"


def test_28_formats() -> None:
    assert len(FORMATS) == len(set(FORMATS)) == 28
    for format in FORMATS:
        assert prompt_text(QUESTION, format, captions=True).endswith("\nResponse:")
        assert "The answer is B." in answer_text(QUESTION, format)


@pytest.mark.parametrize("format", TEXT_FORMATS)
def test_formats_whose_answer_is_the_text_of_a_choice(format: str) -> None:
    assert prompt_text(QUESTION, format, captions=True).endswith("\nResponse:")
    assert ("(A) so (B) thus" in prompt_text(QUESTION, format, captions=True)) == ("M" in format)
    assert answer_text(QUESTION, format) == choice_text(QUESTION, 1) == "The answer is thus."
    assert choice_text(dataclasses.replace(QUESTION, choices=("so  what", "thus")), 0) == "The answer is so what."


@pytest.mark.parametrize(
    ("output", "n_choices", "index"),
    [(" B", 3, 1), ("Answer: B", 3, 0), ("(C)", 3, 2), ("D", 3, None), ("b", 3, None), ("", 3, None), ("Z", 26, 25)],
)
def test_letter_choice(output: str, n_choices: int, index: int | None) -> None:
    assert letter_choice(output, n_choices) == index


def golden(shared: Path, name: str) -> Any:
    return json.loads((shared / "golden" / "scienceqa_prompt" / name).read_text(encoding="utf-8"))


@pytest.mark.realdata
def test_golden_prompts_and_answers(shared: Path) -> None:
    prompts = golden(shared, "prompts.json")
    fields = {field.name for field in dataclasses.fields(Question)} - {"id", "image"}
    cases = prompts["cases"] + golden(shared, "all_formats.json")
    assert len(cases) == 72 + 50
    for case in cases:
        raw = prompts["problems"][case["qid"]]
        known = {name: value for name, value in raw.items() if name in fields}
        question = Question(id=case["qid"], image=None, **known | {"choices": tuple(raw["choices"])})
        assert prompt_text(question, case["prompt_format"], captions=case["use_caption"]) == case["prompt"]
        assert answer_text(question, case["prompt_format"]) == case["answer"]
    assert {case["prompt_format"] for case in cases} == set(FORMATS) - {"QCM-AEL"}


@pytest.mark.realdata
def test_golden_letters(shared: Path) -> None:
    scores = golden(shared, "scores.json")
    for qid, output in scores["raw_outputs"].items():
        choice = letter_choice(output, scores["items"][qid]["n_choices"])
        assert (-1 if choice is None else choice) == scores["predictions"][qid]
