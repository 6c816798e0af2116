from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import DataError
from tasks.io.scienceqa_problems import check_picture_files, find_folder, read_questions

Problem = Callable[..., dict[str, Any]]
Write = Callable[..., Path]


def test_reads_every_field(write: Write, make_problem: Problem) -> None:
    folder = write(
        {"7": make_problem(topic="physics", category="Light", skill="See")}, {"test": ["7"]}, {"7": "A cube."}
    )
    [question] = read_questions(folder, "test", captions=True)
    assert question.id == "7"
    assert question.image == folder / "images" / "test" / "7" / "image.png"
    assert (question.question, question.choices, question.answer) == (
        "Which is red?",
        ("the ball", "the cube", "neither"),
        1,
    )
    assert (question.hint, question.caption) == ("Look at the picture.", "A cube.")
    assert (question.lecture, question.solution) == ("Red is a colour.", "The cube is red.")
    assert (question.subject, question.topic, question.category, question.skill, question.grade) == (
        "natural science",
        "physics",
        "Light",
        "See",
        "grade3",
    )


def test_absent_and_null_texts_are_empty(write: Write, make_problem: Problem) -> None:
    folder = write({"7": make_problem(hint=..., lecture=None, grade=None, image=...)}, {"test": ["7"]})
    [question] = read_questions(folder, "test", captions=False)
    assert (question.hint, question.lecture, question.grade, question.caption) == ("", "", "", "")
    assert question.image is None


def test_order_of_the_split_file(write: Write, make_problem: Problem) -> None:
    folder = write({pid: make_problem(image=None) for pid in "123"}, {"train": ["3", "1", "2"]})
    assert [question.id for question in read_questions(folder, "train", captions=False)] == ["3", "1", "2"]


def test_captions_file_only_when_wanted(write: Write) -> None:
    folder = write()
    read_questions(folder, "test", captions=False)
    with pytest.raises(DataError, match=r"captions\.json: missing file"):
        read_questions(folder, "test", captions=True)


def test_a_picture_without_caption_has_an_empty_one(write: Write) -> None:
    [question] = read_questions(write(captions={"other": "x"}), "test", captions=True)
    assert question.caption == ""


@pytest.mark.parametrize("up", [False, True])
def test_folder_or_its_parent(write: Write, up: bool) -> None:
    folder = write()
    assert find_folder(folder.parent if up else folder) == folder


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder; point --data-root"):
        find_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("inner", [False, True])
def test_folder_without_problems(tmp_path: Path, inner: bool) -> None:
    where = tmp_path / "scienceqa" if inner else tmp_path
    where.mkdir(exist_ok=True)
    with pytest.raises(DataError) as error:
        find_folder(tmp_path)
    assert str(error.value).startswith(f"{where / 'problems.json'}: missing file; point --data-root")


@pytest.mark.parametrize("name", ["problems.json", "pid_splits.json"])
def test_malformed_file_with_its_place(write: Write, name: str) -> None:
    folder = write()
    (folder / name).write_text('{\n  "1": {"question": "cut')
    with pytest.raises(DataError) as error:
        read_questions(folder, "test", captions=False)
    assert str(error.value).startswith(f"{folder / name}: malformed JSON at line 2 column 21")


def test_missing_split_file(write: Write) -> None:
    folder = write()
    (folder / "pid_splits.json").unlink()
    with pytest.raises(DataError, match=r"pid_splits\.json: missing file"):
        read_questions(folder, "test", captions=False)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("question", ..., "question is missing; add it"),
        ("question", 3, "question is a number; it must be a text"),
        ("choices", ..., "choices is missing; add it"),
        ("choices", [], "choices is empty; a problem needs at least one"),
        ("choices", "AB", "choices is a text; it must be a list of texts"),
        ("choices", ["a", 2], "choices has a number; each must be a text"),
        ("choices", ["a"] * 27, "choices has 27 entries; there are letters for 26"),
        ("answer", ..., "answer is missing; add it"),
        ("answer", 3, "answer 3 is out of range for 3 choices; use 0 to 2"),
        ("answer", -1, "answer -1 is out of range for 3 choices; use 0 to 2"),
        ("answer", "A", "answer is a text; it must be an index into choices, from 0"),
        ("answer", True, "answer is a truth value; it must be an index"),
        ("answer", 1.0, "answer is a number; it must be an index"),
        ("hint", 5, "hint is a number; it must be a text or null"),
        ("grade", 5, "grade is a number; it must be a text or null"),
        ("image", True, "image is True; it must be a file name such as image.png, or null"),
        ("image", "", "image is ''; it must be a file name"),
        ("image", "../image.png", "image is '../image.png'; it must be a file name"),
    ],
)
def test_invalid_problem(write: Write, make_problem: Problem, field: str, value: object, message: str) -> None:
    folder = write({"7": make_problem(image=None), "8": make_problem(**{field: value})}, {"test": ["7", "8"]})
    with pytest.raises(DataError) as error:
        read_questions(folder, "test", captions=False)
    assert str(error.value).startswith(f"{folder / 'problems.json'}: problem '8': {message}")
    assert "\n" not in str(error.value)


def test_problem_that_is_no_object(write: Write) -> None:
    folder = write()
    (folder / "problems.json").write_text('{"3": []}')
    with pytest.raises(DataError, match="problem '3' is a list; it must be an object"):
        read_questions(folder, "test", captions=False)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": ["1"]}, "no split 'test'; it has train"),
        ({}, "no split 'test'; it has none of train, val, test"),
        ({"test": []}, "split 'test' is empty; list at least one problem id"),
        ({"test": "1"}, "test is a text; it must be a list of problem ids"),
        ({"test": [1]}, 'test has a number 1; problem ids must be texts, as in "12"'),
        ({"test": ["1", "1"]}, "test lists '1' more than once; keep one"),
        ({"test": ["1"], "train": ["2", "1"]}, "'1' is in both train and test; a problem belongs to one split"),
        ({"test": ["1", "9"]}, "test lists '9', which problems.json lacks; remove it or add the problem"),
    ],
)
def test_invalid_splits(write: Write, make_problem: Problem, splits: dict[str, Any], message: str) -> None:
    folder = write({pid: make_problem(image=None) for pid in "12"}, splits)
    with pytest.raises(DataError) as error:
        read_questions(folder, "test", captions=False)
    assert str(error.value) == f"{folder / 'pid_splits.json'}: {message}"


def test_unknown_split_with_the_nearest(write: Write) -> None:
    with pytest.raises(DataError, match=r"pid_splits\.json: no split 'tests'; did you mean 'test'\?"):
        read_questions(write(), "tests", captions=False)


def test_an_unused_split_may_overlap(write: Write, make_problem: Problem) -> None:
    problems = {"1": make_problem(image=None)}
    folder = write(problems, {"test": ["1"], "minitest": ["1"]})
    assert len(read_questions(folder, "test", captions=False)) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"1": "x"}', "captions is null; the file must be"),
        ('{"captions": ["x"]}', "captions is a list; the file must be"),
        ('{"captions": {"3": 4}}', "captions: the caption of '3' is a number; it must be a text"),
    ],
)
def test_invalid_captions(write: Write, content: str, message: str) -> None:
    folder = write()
    (folder / "captions.json").write_text(content)
    with pytest.raises(DataError) as error:
        read_questions(folder, "test", captions=True)
    assert str(error.value).startswith(f"{folder / 'captions.json'}: {message}")


@pytest.mark.parametrize("pid", ["../../../elsewhere", "/elsewhere", "..", "a/b"])
def test_the_id_of_a_problem_with_a_picture_leads_nowhere_else(write: Write, make_problem: Problem, pid: str) -> None:
    folder = write({pid: make_problem(image=None)}, {"test": [pid]})
    [question] = read_questions(folder, "test", captions=False)
    assert question.id == pid
    (folder / "problems.json").write_text(json.dumps({pid: make_problem()}))
    with pytest.raises(DataError, match="must be the name of a folder; give it a number"):
        read_questions(folder, "test", captions=False)


def test_missing_pictures_are_named_and_counted(write: Write, make_problem: Problem) -> None:
    folder = write({pid: make_problem() for pid in "123"}, {"test": ["1", "2", "3"]})
    questions = read_questions(folder, "test", captions=False)
    check_picture_files(questions)
    for question in questions[1:]:
        assert question.image is not None
        question.image.unlink()
    with pytest.raises(DataError) as error:
        check_picture_files(questions)
    assert str(error.value).startswith(f"{questions[1].image}: missing picture of problem '2'; fetch it")
    assert "(2 of 3 pictures are missing)" in str(error.value)
