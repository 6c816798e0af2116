"""The ScienceQA-format data set of the mini world: layout, shares, balance, disjoint splits, caching."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tasks.mini import scienceqa, text

SIZES = {"train": 600, "val": 100, "test": 300}
Problems = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mini")
    scienceqa.write(folder, **SIZES)
    return folder


@pytest.fixture(scope="module")
def problems(root: Path) -> Problems:
    return json.loads((root / "problems.json").read_text())


def _digest(root: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            found.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return found.hexdigest()


def test_deterministic_byte_for_byte(tmp_path: Path) -> None:
    sizes = {"train": 40, "val": 5, "test": 10}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        scienceqa.write(tmp_path / name, **sizes, seed=seed)
    assert _digest(tmp_path / "a") == _digest(tmp_path / "b")
    assert _digest(tmp_path / "a") != _digest(tmp_path / "c")


def test_layout(root: Path, problems: Problems) -> None:
    splits = json.loads((root / "pid_splits.json").read_text())
    captions = json.loads((root / "captions.json").read_text())["captions"]
    assert {name: len(qids) for name, qids in splits.items()} == SIZES
    assert [qid for qids in splits.values() for qid in qids] == list(problems)
    for qid, problem in problems.items():
        assert qid in splits[problem["split"]]
        assert 0 <= problem["answer"] < len(problem["choices"]) <= 5
        assert problem["grade"] in {f"grade{n}" for n in range(1, 13)}
        assert problem["subject"] in {"natural science", "social science", "language science"}
        assert all(problem[field] for field in ("task", "topic", "category", "skill", "lecture", "solution"))
        path = root / "images" / problem["split"] / qid / "image.png"
        assert path.exists() == (problem["image"] == "image.png") == (qid in captions)
    with Image.open(next(root.rglob("image.png"))) as picture:
        assert picture.size == (112, 112)


def test_every_skill_and_the_shares(problems: Problems) -> None:
    assert len({problem["skill"] for problem in problems.values()}) >= 8
    total = len(problems)
    with_image = sum(problem["image"] is not None for problem in problems.values())
    with_hint = sum(bool(problem["hint"]) for problem in problems.values())
    assert 0.63 < with_image / total < 0.75
    assert 0.1 < with_hint / total < 0.2
    sides = sum(problem["category"] == "Maps" for problem in problems.values())
    assert 0.05 < sides / with_image < 0.15
    grades = Counter(int(problem["grade"][5:]) > 6 for problem in problems.values())
    assert min(grades.values()) > 100


def test_answer_position_is_uniform(problems: Problems) -> None:
    for size in (2, 3, 4):
        answers = [p["answer"] for p in problems.values() if len(p["choices"]) == size]
        for count in Counter(answers).values():
            assert abs(count / len(answers) - 1 / size) < 0.12


def test_image_problems_do_not_leak_the_answer(root: Path, problems: Problems) -> None:
    captions = json.loads((root / "captions.json").read_text())["captions"]
    for qid, problem in problems.items():
        if problem["image"] is None:
            continue
        assert problem["hint"] == ""
        answer = problem["choices"][problem["answer"]]
        assert answer not in captions[qid].lower().strip(".").split()


def test_no_picture_is_shown_twice(root: Path) -> None:
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in root.rglob("image.png")]
    assert len(set(digests)) == len(digests)


def test_scenes_are_disjoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown: list[str] = []
    draw = scienceqa.render
    monkeypatch.setattr(scienceqa, "render", lambda scene, seed: shown.append(text.facts(scene)) or draw(scene, seed))
    scienceqa.write(tmp_path, train=300, val=50, test=100)
    assert len(set(shown)) == len(shown) > 200


def test_ensure_writes_once_and_keys_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = scienceqa.ensure(tmp_path, train=5, val=2, test=2)
    other = scienceqa.ensure(tmp_path, train=6, val=2, test=2)
    assert first != other
    monkeypatch.setattr(scienceqa, "write", lambda *a, **k: pytest.fail("written twice"))
    assert scienceqa.ensure(tmp_path, train=5, val=2, test=2) == first


def test_a_killed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scienceqa, "_dump", killed)
        with pytest.raises(KeyboardInterrupt):
            scienceqa.ensure(tmp_path, train=5, val=1, test=1)
    assert list(tmp_path.iterdir()) == []
    assert (scienceqa.ensure(tmp_path, train=5, val=1, test=1) / "problems.json").exists()


def test_bad_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="negative"):
        scienceqa.write(tmp_path, train=-1, val=0, test=0)
    with pytest.raises(ValueError, match="unknown splits"):
        scienceqa.ensure(tmp_path, dev=3)
