"""A small ScienceQA data set on disk, and the way to the real one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.golden import SHARED, skip_without_golden

Write = Callable[..., Path]


@pytest.fixture
def shared() -> Path:
    """The folder with golden vectors and real data, which may not be copied into the repository."""
    skip_without_golden()
    return SHARED


def problem(**fields: Any) -> dict[str, Any]:
    """A valid problem; a field set to `...` is left out."""
    whole = {
        "question": "Which is red?",
        "choices": ["the ball", "the cube", "neither"],
        "answer": 1,
        "hint": "Look at the picture.",
        "image": "image.png",
        "grade": "grade3",
        "subject": "natural science",
        "lecture": "Red is a colour.",
        "solution": "The cube is red.",
    } | fields
    return {name: value for name, value in whole.items() if value is not ...}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes problems, splits, captions and a picture per problem that has one; the path has spaces and accents."""

    def files(
        problems: dict[str, dict[str, Any]] | None = None,
        splits: dict[str, Any] | None = None,
        captions: dict[str, Any] | None = None,
    ) -> Path:
        folder = tmp_path / "Daten für évaluation" / "scienceqa"
        folder.mkdir(parents=True)
        if problems is None:
            problems = {"1": problem(), "2": problem(image=None, answer=0), "3": problem(hint="")}
        splits = {"train": ["1"], "val": ["2"], "test": ["3"]} if splits is None else splits
        (folder / "problems.json").write_text(json.dumps(problems), encoding="utf-8")
        (folder / "pid_splits.json").write_text(json.dumps(splits), encoding="utf-8")
        if captions is not None:
            (folder / "captions.json").write_text(json.dumps({"captions": captions}), encoding="utf-8")
        for split, pids in splits.items():
            for number, pid in enumerate(pids if isinstance(pids, list) else []):
                name = problems.get(str(pid), {}).get("image")
                if isinstance(name, str) and name and "/" not in name:
                    path = folder / "images" / split / str(pid) / name
                    path.parent.mkdir(parents=True)
                    Image.new("RGB", (20, 10), (200, 10 * number % 255, 30)).save(path)
        return folder

    return files


@pytest.fixture
def make_problem() -> Callable[..., dict[str, Any]]:
    return problem
