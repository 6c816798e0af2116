from __future__ import annotations

from collections.abc import Callable

import pytest

import tasks
from tasks import Task, UnknownName


class Elsewhere(tasks.load("scienceqa")):  # type: ignore[misc]  # a third party's task
    pass


class Point:
    name = "elsewhere"
    load: Callable[[], type[Task]] = staticmethod(lambda: Elsewhere)


def test_files_are_names_and_packages_are_not() -> None:
    assert "scienceqa" in tasks.names()
    assert not {"io", "mini"} & set(tasks.names())
    assert tasks.names() == sorted(tasks.names())


def test_get_sets_options() -> None:
    task = tasks.get("scienceqa", answer_by="greedy")
    assert type(task).__name__ == "ScienceQA"
    assert vars(task)["answer_by"] == "greedy"


def test_unknown_name_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"unknown task 'sciencqa'; did you mean 'scienceqa'\?"):
        tasks.load("sciencqa")


def test_unknown_name_far_from_all() -> None:
    with pytest.raises(UnknownName, match=r"unknown task 'zzz'; known: .*scienceqa"):
        tasks.get("zzz")


def test_unknown_option_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"scienceqa has no option 'anser_by'; did you mean 'answer_by'\?"):
        tasks.get("scienceqa", anser_by="greedy")


def test_unknown_option_far_from_all() -> None:
    with pytest.raises(ValueError, match=r"scienceqa has no option 'zzz'; known: .*train_format, "):
        tasks.get("scienceqa", zzz=1)


def test_entry_points_are_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [Point] if group == "vltune.tasks" else [])
    assert "elsewhere" in tasks.names()
    assert tasks.load("elsewhere") is Elsewhere
    assert isinstance(tasks.get("elsewhere"), Elsewhere)
