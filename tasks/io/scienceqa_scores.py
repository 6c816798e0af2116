"""The nine ScienceQA columns (Lu et al. 2022, table 3) from plain choices, each with its n."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tasks import Metric
from tasks.io.same_ids import check_same_ids
from tasks.io.scienceqa_problems import Question


@dataclass(frozen=True)
class _Column:
    counts: Callable[[Question], bool]
    nothing: str  # why the column is empty when no question counts


def _subject(name: str) -> _Column:
    return _Column(lambda question: question.subject == name, f"no example has the subject {name!r}")


def _grades(first: int, last: int) -> _Column:
    names = {f"grade{number}" for number in range(first, last + 1)}
    return _Column(lambda question: question.grade in names, f"no example has a grade from {first} to {last}")


_COLUMNS = {
    "accuracy": _Column(lambda question: True, "there are no examples"),
    "accuracy_nat": _subject("natural science"),
    "accuracy_soc": _subject("social science"),
    "accuracy_lan": _subject("language science"),
    "accuracy_txt": _Column(lambda question: question.hint != "", "no example has a hint"),
    "accuracy_img": _Column(lambda question: question.image is not None, "no example has a picture"),
    "accuracy_no": _Column(
        lambda question: question.hint == "" and question.image is None, "every example has a hint or a picture"
    ),
    "accuracy_g1_6": _grades(1, 6),
    "accuracy_g7_12": _grades(7, 12),
}


def category_ids(questions: Sequence[Question]) -> dict[str, frozenset[str]]:
    """The ids of the questions that each column but the first counts, by its name without "accuracy_"."""
    return {
        name.removeprefix("accuracy_"): frozenset(question.id for question in questions if column.counts(question))
        for name, column in _COLUMNS.items()
        if name != "accuracy"
    }


def score_choices(choices: Mapping[str, int | None], questions: Sequence[Question]) -> dict[str, Metric]:
    """Accuracy in percent, unrounded, over all questions and over each category.

    Args:
        choices: the predicted index of every question id; None or -1 counts as wrong.
        questions: the questions to score, each once, with their pictures (also where a model did not see them).

    Raises:
        ValueError: choices and questions are not about the same ids, or a question comes twice.
    Source: the authors' eval_sqa.py, get_scores.
    """
    ids = [question.id for question in questions]
    check_same_ids(list(choices), ids)
    metrics: dict[str, Metric] = {}
    for name, column in _COLUMNS.items():
        counted = [question for question in questions if column.counts(question)]
        right = sum(choices[question.id] == question.answer for question in counted)
        metrics[name] = Metric(
            value=100 * right / len(counted) if counted else None,
            unit="%",
            goal="max",
            n=len(counted),
            successes=right,
            reason=None if counted else column.nothing,
        )
    return metrics
