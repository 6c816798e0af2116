"""What the rows of one table answered, as far as files and data tell; where they do not, why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.record import Record
from harness.report import answers, questions
from harness.report.answers import NO_FOLDER, NoAnswersError
from harness.report.questions import Questions
from harness.report.wording import listed
from harness.statistics.example_scores import Scores
from harness.statistics.paired import Incomparable
from harness.store import Store
from harness.tables.columns import visible
from harness.tables.rows import Row, Table
from tasks import ExampleScore

NO_SCORES = "no score for each example was saved (run again with --fresh)"


@dataclass(frozen=True)
class RowAnswers:
    """The predictions of a row's first seed; `scores` tell right from wrong, None where nothing does."""

    row: Row
    seed: int
    lines: list[dict[str, Any]]
    scores: Mapping[str, ExampleScore] | None


@dataclass
class Evidence:
    """The rows whose predictions are there, and (label, reason) of what is missing."""

    rows: list[RowAnswers] = field(default_factory=list)
    questions: Questions | None = None
    no_lines: list[tuple[str, str]] = field(default_factory=list)
    not_judged: list[tuple[str, str]] = field(default_factory=list)


def gather(
    table: Table, by_run: Mapping[str, Record], store: Store | None, data_roots: Sequence[Path], scores: Scores
) -> Evidence:
    """Read what the first seeds of a table answered."""
    evidence = Evidence()
    choices = next(iter(table.metrics), "") == "accuracy"
    for row in table.rows:
        record = by_run[row.runs[0]]
        try:
            if store is None:
                raise NoAnswersError(NO_FOLDER)
            lines = answers.read(record, store)
        except NoAnswersError as error:
            evidence.no_lines.append((visible(row.method), visible(error)))
            continue
        judged = _judged(row, record, scores, evidence) if choices else None
        evidence.rows.append(RowAnswers(row, record.cell.seed, lines, judged))
    if evidence.rows:
        first = evidence.rows[0]
        ids = frozenset(line["id"] for line in first.lines)
        evidence.questions = questions.load(by_run[first.row.runs[0]], data_roots, ids)
    return evidence


def _judged(row: Row, record: Record, scores: Scores, evidence: Evidence) -> Mapping[str, ExampleScore] | None:
    try:
        if found := scores(record):
            return found
        evidence.not_judged.append((visible(row.method), NO_SCORES))
    except Incomparable as error:
        evidence.not_judged.append((visible(row.method), visible(error)))
    return None


def excuse(missing: Sequence[tuple[str, str]]) -> str:
    """(label, reason) in words, one clause for all with the same reason."""
    labels: dict[str, list[str]] = {}
    for label, reason in missing:
        labels.setdefault(reason, []).append(label)
    return "; ".join(f"{listed(names)}: {reason}" for reason, names in labels.items())
