"""ScienceQA (Lu et al. 2022): multiple-choice science questions, half of them with a picture.

Files, prompts, picture transform and columns are those of ADEM-VL and MemVP; where the two differ from each
other or from the paper, an option says which is meant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from tasks import Example, ExampleScore, Metric, Model, Prediction, setting
from tasks.io.of_kind import of_kind
from tasks.io.picture_task import PictureTask
from tasks.io.pictures import NORMS
from tasks.io.same_ids import check_same_ids
from tasks.io.scienceqa_problems import LETTERS, Question, check_picture_files, find_folder, read_questions
from tasks.io.scienceqa_prompt import (
    ANSWER_LEAD,
    FORMATS,
    TEXT_FORMATS,
    answer_text,
    choice_text,
    letter_choice,
    prompt_text,
)
from tasks.io.scienceqa_scores import category_ids, score_choices
from tasks.io.subset import nested_subset

_BOTH = (False, True)


@dataclass(frozen=True, kw_only=True)
class ScienceQA(PictureTask):
    """Answer with the letter of a choice, or its text. ADEM-VL trains `CQM-A` and evaluates with captions."""

    train_format: str = setting(
        "QCM-A",
        "prompt and answer format of training",
        choices=FORMATS + TEXT_FORMATS,
        source="MemVP; ADEM-VL's default is CQM-A",
    )
    eval_format: str = setting(
        "QCM-A",
        "prompt of evaluation, and whether letters or texts are scored",
        choices=FORMATS + TEXT_FORMATS,
        source="ADEM-VL, MemVP eval_sqa.py",
    )
    train_captions: bool = setting(False, "training contexts include the caption of the picture", choices=_BOTH)
    eval_captions: bool = setting(
        False, "evaluation contexts include the caption; the authors of both methods do so", choices=_BOTH
    )
    image_norm: str = setting(
        "imagenet",
        "constants that normalise pictures; `backbone`: those its vision tower was trained with",
        choices=NORMS,
        source="ADEM-VL util/datasets.py: ImageNet, although the tower is CLIP",
    )
    answer_by: str = setting(
        "likelihood",
        "the most likely letter (or text) of the choices, or the first capital letter of one greedily decoded token",
        choices=("likelihood", "greedy"),
        source="the authors' eval_sqa.py decodes greedily",
    )

    def __post_init__(self) -> None:
        """Refuse options that contradict each other.

        Raises:
            ValueError: also where an option cannot have its value.
        """
        super().__post_init__()
        texts = self.eval_format in TEXT_FORMATS
        if (self.train_format in TEXT_FORMATS) != texts:
            one, other = ("letters", "texts") if texts else ("texts", "letters")
            raise ValueError(
                f"train_format={self.train_format} teaches {one} and eval_format={self.eval_format} asks for {other}; "
                "give both formats with -T or both without"
            )
        if texts and self.overlong == "cut":
            raise ValueError(
                f"overlong=cut leaves no room behind a prompt for the texts of eval_format={self.eval_format}; drop one"
            )
        if texts and self.answer_by == "greedy":
            raise ValueError(f"answer_by=greedy reads letters, eval_format={self.eval_format} asks for texts; drop one")

    def examples(self, split: Literal["train", "val", "test"], root: Path, *, limit: int | None) -> list[Example]:
        """The checked questions of a split; `root` is the ScienceQA folder or the one that holds scienceqa/.

        Every problem of the split is checked; picture files only of those that `limit` leaves.

        Raises:
            DataError: see the contract; one line with file, field and fix.
            ValueError: a limit below 1.
        """
        captions = self.train_captions or self.eval_captions
        questions = nested_subset(read_questions(find_folder(self.home(root)), split, captions=captions), limit)
        check_picture_files(questions)
        return list(questions)

    def texts(self, examples: Sequence[Example], *, train: bool) -> list[tuple[str, str]]:
        """Prompt and answer in the format of training, or the evaluation prompt and an empty answer."""
        questions = _questions(examples)
        if train:
            return [
                (prompt_text(q, self.train_format, captions=self.train_captions), answer_text(q, self.train_format))
                for q in questions
            ]
        return [(prompt_text(q, self.eval_format, captions=self.eval_captions) + ANSWER_LEAD, "") for q in questions]

    def longest_answers(self, examples: Sequence[Example]) -> list[str | None]:
        """The longest choice of each question where texts are asked for; a letter is not read."""
        questions = _questions(examples)
        if self.eval_format not in TEXT_FORMATS:
            return [None] * len(questions)
        return [max(_choice_texts(question), key=len) for question in questions]

    def batch(self, model: Model, examples: Sequence[Example], *, train: bool) -> Any:
        """What the model encodes: texts and pictures, squashed to its size and normalised.

        Raises:
            DataError: a picture is missing or broken.
        """
        texts = self.texts(examples, train=train)
        answers = [answer for _, answer in texts] if train else None
        images = self._batch_images(examples, model)
        return model.encode([prompt for prompt, _ in texts], answers=answers, images=images)

    def loss(self, model: Model, batch: Any) -> Tensor:
        """Mean cross-entropy over the answer tokens of the batch."""
        return model.loss(batch)

    def predict(self, model: Model, batch: Any, examples: Sequence[Example]) -> list[Prediction]:
        """A letter per question, or the text of a choice; of equally likely ones the first.

        Raises:
            ValueError: a likelihood is not a number, as after a diverged training.
        """
        questions = _questions(examples)
        if self.answer_by == "greedy":
            outputs = model.generate(batch, max_new_tokens=1)
            return [
                Prediction(id=q.id, output=output, choice=letter_choice(output, len(q.choices)))
                for q, output in zip(questions, outputs, strict=True)
            ]
        if self.eval_format in TEXT_FORMATS:
            names: list[Sequence[str]] = [q.choices for q in questions]
            asked = [_choice_texts(q) for q in questions]
        else:
            names = [LETTERS[: len(q.choices)] for q in questions]
            asked = [[f" {letter}" for letter in letters] for letters in names]
        rows = model.continuation_logprobs(batch, asked)
        return [_likeliest(q, row, named) for q, row, named in zip(questions, rows, names, strict=True)]

    def score(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, Metric]:
        """Accuracy over all and per category: NAT, SOC, LAN, TXT, IMG, NO, G1-6, G7-12, each with its n.

        Raises:
            ValueError: not exactly one prediction for each example.
        """
        check_same_ids([prediction.id for prediction in predictions], [example.id for example in examples])
        return score_choices({prediction.id: prediction.choice for prediction in predictions}, _questions(examples))

    def example_scores(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, ExampleScore]:
        """100 for a right answer, 0 for a wrong one; every question stands for itself."""
        answers = {question.id: question.answer for question in _questions(examples)}
        return {p.id: ExampleScore(p.id, 100.0 * (p.choice == answers[p.id])) for p in predictions}

    def subsets(self, examples: Sequence[Example]) -> Mapping[str, frozenset[str]]:
        """The questions of each category, by the name of its score without "accuracy_"."""
        return category_ids(_questions(examples))


def _questions(examples: Sequence[Example]) -> list[Question]:
    return of_kind(examples, Question, "scienceqa answers questions")


def _choice_texts(question: Question) -> list[str]:
    """What follows the prompt of evaluation, choice by choice."""
    return [choice_text(question, choice).removeprefix(ANSWER_LEAD) for choice in range(len(question.choices))]


def _likeliest(question: Question, logprobs: Sequence[float], names: Sequence[str]) -> Prediction:
    if len(logprobs) != len(question.choices) or any(math.isnan(value) for value in logprobs):
        raise ValueError(f"question {question.id!r} needs {len(question.choices)} log-probabilities, got {logprobs}")
    choice = max(range(len(logprobs)), key=logprobs.__getitem__)
    return Prediction(id=question.id, output=names[choice], choice=choice)
