"""The example browser: what each method answered to each example, right or wrong, within a fixed share of the page."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.report.questions import Questions
from harness.tables.columns import visible
from tasks import ExampleScore

PICTURES = 150
"""Thumbnails in one report."""

THUMBNAIL = 160
"""Pixels of a thumbnail's longer side."""

_BUDGET = 2_000_000
"""Characters for all examples of a report, pictures not counted."""


@dataclass(frozen=True)
class Answered:
    """One row of a table: its label, the the answers of its first seed by id, and scores that tell right from wrong."""

    label: str
    look: str
    method: str
    seed: int
    lines: Mapping[str, Mapping[str, Any]]
    scores: Mapping[str, ExampleScore] | None


def browser(rows: Sequence[Answered], questions: Questions | None, *, tables: int, pictures: int) -> dict[str, Any]:
    """Plain data for the page: the methods, and examples as far as this table's share of the page goes.

    Examples on which methods differ most come first, so that these are never cut.

    Args:
        rows: the methods, in the order of the table.
        questions: prompts, right answers and pictures, where the data was given.
        tables: how many tables share the page.
        pictures: how many thumbnails this table may have.
    """
    ids = list(dict.fromkeys(id for row in rows for id in row.lines))
    texts = {id: [_text(row.lines.get(id)) for row in rows] for id in ids}
    rights = {id: [_right(row, id) for row in rows] for id in ids}
    order = {id: index for index, id in enumerate(ids)}
    by_interest = sorted(ids, key=lambda id: (not _mixed(rights[id]), -len(set(texts[id])), order[id]))
    room, shown = _BUDGET // max(1, tables), list[dict[str, Any]]()
    for id in by_interest:
        entry = _entry(id, texts[id], rights[id], questions)
        room -= len(json.dumps(entry))
        if room < 0:
            break
        shown.append(entry)
    if questions is not None:
        _add_pictures(shown, questions, pictures)
    return {
        "methods": [{"label": row.label, "look": row.look, "method": row.method, "seed": row.seed} for row in rows],
        "total": len(ids),
        "examples": shown,
    }


def _entry(id: str, texts: list[str], rights: list[int | None], questions: Questions | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": visible(id), "key": id, "a": texts, "r": rights}
    if questions is not None:
        entry |= {"prompt": questions.prompts.get(id, ""), "truth": questions.truths.get(id, "")}
    return entry


def _text(line: Mapping[str, Any] | None) -> str:
    if line is None:
        return "no answer"
    if isinstance(rank := line.get("rank"), int):
        return f"rank {rank}"
    cider = line.get("cider")
    score = f" (CIDEr {cider:.0f})" if isinstance(cider, int | float) else ""
    return f"{visible(line.get('output', ''))}{score}"


def _right(row: Answered, id: str) -> int | None:
    """1 or 0 for choices and ranks; a caption is neither right nor wrong."""
    line = row.lines.get(id)
    if line is None:
        return None
    if isinstance(rank := line.get("rank"), int):
        return int(rank == 1)
    if row.scores is None or id not in row.scores:
        return None
    return int(row.scores[id].value > 0)


def _mixed(rights: Sequence[int | None]) -> bool:
    return len({right for right in rights if right is not None}) > 1


def _add_pictures(shown: Sequence[dict[str, Any]], questions: Questions, most: int) -> None:
    for entry in shown:
        example = questions.examples.get(entry["key"])
        if most > 0 and example is not None and example.image is not None:
            entry["image"] = thumbnail(example.image)
            most -= 1


def thumbnail(path: Path) -> str:
    """A picture as a small JPEG in a data URI; empty where it cannot be read."""
    from tasks.io.pictures import BROKEN, opened

    try:
        with opened(path) as picture:
            small = picture.convert("RGB")
    except BROKEN:
        return ""
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
