"""Writes a ScienceQA-format data set of the mini world: problems.json, pid_splits.json, captions.json and images/.

Deterministic byte for byte. Scenes are mildly skewed (so that a method that never sees a picture learns a little) and
no two problems show the same scene, within or across splits.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random

from . import text
from .folder import all_sizes, ensure_folder, split_sizes
from .render import render
from .world import VERSION as WORLD_VERSION
from .world import Scene, sample_scene

VERSION = f"{WORLD_VERSION}.2"
"""Of the data set; goes up whenever its bytes change."""

DEFAULT_SIZES: dict[str, int] = {"train": 8000, "val": 400, "test": 1000}
"""Problems per split."""


@dataclass(frozen=True)
class _Topic:
    """Where ScienceQA would file a skill, how often it is asked, and for which grades."""

    weight: float
    subject: str
    topic: str
    category: str
    skill: str
    grades: tuple[int, int]
    lecture: str


_NATURAL, _SOCIAL, _LANGUAGE = "natural science", "social science", "language science"
# The backbone also knows the shapes and patterns of things; they are not asked here, so that the others are asked often
# enough to be learned from pictures within minutes.
_TOPICS: dict[str, _Topic] = {
    "weather": _Topic(
        13, _NATURAL, "earth-science", "Weather and climate", "Describe the weather", (1, 6),
        "The weather is what the sky and the air are like: sun, rain, snow or fog.",
    ),
    "place": _Topic(
        12, _SOCIAL, "geography", "Places", "Identify places", (1, 6),
        "A place is known by its ground and by what stands on it.",
    ),
    "count": _Topic(
        14, _SOCIAL, "economics", "Counting goods", "Count things", (1, 6),
        "To count things, name one number for each thing.",
    ),
    "colour": _Topic(
        12, _NATURAL, "physics", "Light and colour", "Find the prevailing colour", (1, 8),
        "The prevailing colour is the one that most things have.",
    ),
    "compare": _Topic(
        13, _SOCIAL, "economics", "Comparing quantities", "Compare quantities", (3, 8),
        "Count the things, then compare the number with the other number.",
    ),
    "side": _Topic(
        6, _SOCIAL, "geography", "Maps", "Read a picture: what is where", (5, 12),
        "The left side of a picture is the side of your left hand.",
    ),
    "owner": _Topic(
        5, _LANGUAGE, "reading-comprehension", "Stories", "Read a story", (2, 9),
        "The answer stands in the text.",
    ),
    "price": _Topic(
        5, _SOCIAL, "economics", "Costs", "Read prices", (4, 11),
        "A price is what must be paid for goods.",
    ),
    "finding": _Topic(
        5, _NATURAL, "science-and-engineering-practices", "Experiments", "Read the result of an experiment", (6, 12),
        "An experiment shows what happens to a sample.",
    ),
    "opposite": _Topic(
        4, _LANGUAGE, "vocabulary", "Word meaning", "Choose the opposite", (1, 8),
        "Opposites are words of contrary meaning.",
    ),
    "past": _Topic(
        4, _LANGUAGE, "verbs", "Verb tense", "Form the past of irregular verbs", (2, 9),
        "Irregular verbs do not form their past with -ed.",
    ),
    "animal": _Topic(
        4, _NATURAL, "biology", "Classification", "Classify animals", (3, 10),
        "Animals are sorted into classes by their traits.",
    ),
    "capital": _Topic(
        4, _SOCIAL, "geography", "Capitals", "Name capitals", (5, 12),
        "The capital is the city from which a country is governed.",
    ),
}  # fmt: skip


def write(root: Path, *, train: int, val: int, test: int, seed: int = 0) -> None:
    """Write the data set of the given split sizes into `root`, which is created and should be empty.

    Raises:
        ValueError: a negative split size.
    """
    sizes = split_sizes(train=train, val=val, test=test)
    rng, shown = Random(seed), set[str]()
    problems: dict[str, dict[str, object]] = {}
    captions: dict[str, str] = {}
    splits: dict[str, list[str]] = {}
    for split, size in sizes.items():
        splits[split] = []
        for _ in range(size):
            qid = str(len(problems) + 1)
            scene, question = _pose(rng, shown)
            if question.needs == "image":
                folder = root / "images" / split / qid
                folder.mkdir(parents=True, exist_ok=True)
                render(scene, seed).save(folder / "image.png", compress_level=1)
                captions[qid] = rng.choice(text.VAGUE_CAPTIONS)
            problems[qid] = _problem(question, split, rng)
            splits[split].append(qid)
    root.mkdir(parents=True, exist_ok=True)
    _dump(root / "problems.json", problems)
    _dump(root / "pid_splits.json", splits)
    _dump(root / "captions.json", {"captions": captions})


def ensure(cache_root: Path, *, seed: int = 0, **sizes: int) -> Path:
    """The folder of the data set of these sizes (by default DEFAULT_SIZES), written on first use.

    Raises:
        ValueError: an unknown split, or a negative size.
    """
    wanted = all_sizes(DEFAULT_SIZES, sizes)
    key = [VERSION, wanted, seed]
    return ensure_folder(cache_root, "mini-scienceqa", key, lambda folder: write(folder, **wanted, seed=seed))


def _pose(rng: Random, shown: set[str]) -> tuple[Scene, text.Question]:
    """A question and a scene no earlier problem showed; the scene matters only if the question needs an image."""
    skill = rng.choices(tuple(_TOPICS), [topic.weight for topic in _TOPICS.values()])[0]
    while True:
        scene = sample_scene(rng, skewed=True)
        key = text.facts(scene)
        question = text.ask(skill, scene, rng)
        if question is None or (question.needs == "image" and key in shown):
            continue
        if question.needs == "image":
            shown.add(key)
        return scene, question


def _problem(question: text.Question, split: str, rng: Random) -> dict[str, object]:
    topic = _TOPICS[question.skill]
    answer = question.choices[question.answer]
    return {
        "question": question.question,
        "choices": list(question.choices),
        "answer": question.answer,
        "hint": question.hint,
        "image": "image.png" if question.needs == "image" else None,
        "task": "closed choice",
        "grade": f"grade{rng.randint(*topic.grades)}",
        "subject": topic.subject,
        "topic": topic.topic,
        "category": topic.category,
        "skill": topic.skill,
        "lecture": topic.lecture,
        "solution": f"The right choice is {answer}.",
        "split": split,
    }


def _dump(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
