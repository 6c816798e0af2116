"""Where tasks look for their data below a folder that holds several data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

import tasks
from tasks import DataError, Task
from tasks.mini import pairs
from tasks.mini import scienceqa as mini_scienceqa

NAMES = ("scienceqa", "coco_caption", "retrieval")
SIZES = {"train": 2, "val": 2, "test": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets of captions and two of questions side by side."""
    root = tmp_path_factory.mktemp("data sets")
    for seed, name in enumerate(("first", "the second")):
        pairs.write(root / name / "captions", **SIZES, seed=seed)
        mini_scienceqa.write(root / name / "questions", **SIZES, seed=seed)
    return root


def folder_of(name: str, place: str) -> str:
    return f"{place}/{'questions' if name == 'scienceqa' else 'captions'}"


def pictures(task: Task, root: Path) -> set[Path]:
    return {example.image for example in task.examples("test", root, limit=None) if example.image is not None}


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_below_the_root(root: Path, name: str) -> None:
    with pytest.raises(DataError):
        tasks.get(name).examples("test", root, limit=None)
    for place in ("first", "the second"):
        folder = folder_of(name, place)
        found = pictures(tasks.get(name, folder=folder), root)
        assert found == pictures(tasks.get(name), root / folder)
        assert all(root / folder in picture.parents for picture in found)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("folder", ["/etc", "..", "first/../..", "a\0b"])
def test_a_folder_elsewhere_is_refused(name: str, folder: str) -> None:
    with pytest.raises(ValueError, match="folder must name a folder below the data root, got"):
        tasks.get(name, folder=folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_is_not_there(root: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"data sets\d+/frist: no such folder; correct the task's option folder=frist"):
        tasks.get(name, folder="frist").examples("test", root, limit=None)
