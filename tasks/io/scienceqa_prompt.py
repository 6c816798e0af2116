"""ScienceQA prompts and answers, in the formats that ADEM-VL and MemVP share.

Source: util/base_prompt.py of both repositories; its oddities are kept, because the published numbers have them. The
formats whose answer is a choice's text are ours.
"""

from __future__ import annotations

import re

from tasks.io.scienceqa_problems import LETTERS, Question

FORMATS = (
    *("CQM-A", "CQM-LA", "CQM-EA", "CQM-LEA", "CQM-ELA", "CQM-AL", "CQM-AE", "CQM-ALE"),
    *("QCM-A", "QCM-LA", "QCM-EA", "QCM-LEA", "QCM-ELA", "QCM-AL", "QCM-AE", "QCM-ALE", "QCM-AEL"),
    *("QCML-A", "QCME-A", "QCMLE-A", "QCLM-A", "QCEM-A", "QCLEM-A", "QCML-AE"),
    *("Q-A", "QM-A", "Q-AL", "QM-EA"),
)
"""What the prompt shows, then what the answer says: Question, Context, Choices (M), Lecture, Explanation, Answer."""

TEXT_FORMATS = ("CQM-T", "QCM-T", "QC-T")
"""The answer is a choice's text instead of its letter, for language models too small to bind letters.

With the choices out of the prompt it is what OLMES (Gu et al. 2024) calls the cloze formulation.
"""

ANSWER_LEAD = "The answer is"
"""Follows the prompt at evaluation without a space, as in the authors' eval_sqa.py."""

# Behind the answer a single letter means the other text.
_AFTER_ANSWER = {"L": "E", "E": "L"}


def prompt_text(question: Question, format: str, *, captions: bool) -> str:
    """Everything before the answer; ends in "Response:".

    Args:
        question: the problem.
        format: one of FORMATS or TEXT_FORMATS; its first half counts.
        captions: whether the context includes the caption of the picture.
    """
    lines = [_line(question, part, captions=captions) for part in re.findall("Q|C|M|[LE]+", format.split("-")[0])]
    return _tidy("\n".join([*lines, "Response:"]))


def answer_text(question: Question, format: str) -> str:
    """What training makes the model say; follows the prompt without a separator.

    An answer with a reason that the data does not have ends in a bare "BECAUSE:".

    Args:
        question: the problem.
        format: one of FORMATS or TEXT_FORMATS; its second half counts.
    """
    if format in TEXT_FORMATS:
        return choice_text(question, question.answer)
    before, after = format.split("-")[1].split("A")
    words = [*_reasons(question, before), f"{ANSWER_LEAD} {LETTERS[question.answer]}."]
    if after:
        words += ["BECAUSE:", *_reasons(question, _AFTER_ANSWER.get(after, after))]
    return _tidy(" ".join(words))


def choice_text(question: Question, choice: int) -> str:
    """The answer that says the text of a choice; follows the prompt without a separator."""
    return _tidy(f"{ANSWER_LEAD} {question.choices[choice]}.")


def letter_choice(output: str, n_choices: int) -> int | None:
    """The index of the first capital letter anywhere in the output; None without one, or beyond the choices.

    Source: the authors' eval_sqa.py; "Answer: B" therefore means A.
    """
    letter = re.search("[A-Z]", output)
    if letter is None:
        return None
    index = LETTERS.index(letter.group())
    return index if index < n_choices else None


def _line(question: Question, part: str, *, captions: bool) -> str:
    if part == "Q":
        return f"Question: {question.question}"
    if part == "C":
        context = f"{question.hint} {question.caption if captions else ''}".strip()
        return f"Context: {context or 'N/A'}"
    if part == "M":
        choices = (f"({letter}) {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False))
        return f"Options: {' '.join(choices)}"
    return " ".join(["BECAUSE:", *_reasons(question, part)])


def _reasons(question: Question, letters: str) -> list[str]:
    texts = {"L": question.lecture, "E": question.solution}
    return [texts[letter].replace("\n", "\\n") for letter in letters]


def _tidy(text: str) -> str:
    # One pass only: three spaces become two, as in the source.
    return text.replace("  ", " ").strip()
