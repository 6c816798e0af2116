"""The official ScienceQA files (Lu et al. 2022), read and checked: problems, splits, captions and picture paths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import combinations
from pathlib import Path
from typing import Any

from tasks import DataError, Example, NoSplit
from tasks.io.files import is_bare, is_file
from tasks.io.json_files import kind, read_object, shown

SPLITS = ("train", "val", "test")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_OPTIONAL_TEXTS = ("hint", "lecture", "solution", "subject", "topic", "category", "skill", "grade")


@dataclass(frozen=True)
class Question(Example):
    """One problem; a text the data does not have is empty. `answer` is an index into `choices`."""

    question: str
    choices: tuple[str, ...]
    answer: int
    hint: str = ""
    caption: str = ""
    lecture: str = ""
    solution: str = ""
    subject: str = ""
    topic: str = ""
    category: str = ""
    skill: str = ""
    grade: str = ""


def find_folder(root: Path) -> Path:
    """The folder with problems.json: `root` itself, or `root`/scienceqa.

    Raises:
        DataError: neither has it.
    """
    fix = "point --data-root at the ScienceQA folder, or at the folder that holds scienceqa/"
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; {fix}")
    inner = root / "scienceqa"
    folder = root if (root / "problems.json").exists() or not inner.is_dir() else inner
    if not (folder / "problems.json").exists():
        raise DataError(f"{folder / 'problems.json'}: missing file; {fix}")
    return folder


def read_questions(folder: Path, split: str, *, captions: bool) -> list[Question]:
    """Every problem of a split, in the order of pid_splits.json; pictures are not looked for yet.

    Raises:
        DataError: a file is missing or malformed, or one of the split's problems is invalid.
        NoSplit: the split is not in pid_splits.json, or is empty there.
    """
    pids = _split_pids(folder / "pid_splits.json", split)
    path = folder / "problems.json"
    problems = read_object(path)
    spoken = _read_captions(folder / "captions.json") if captions else {}
    for pid in pids:
        if pid not in problems:
            where = folder / "pid_splits.json"
            raise DataError(
                f"{where}: {split} lists {shown(pid)}, which {path.name} lacks; remove it or add the problem"
            )
    return [
        _question(problems[pid], pid, f"{path}: problem {shown(pid)}", folder / "images" / split, spoken.get(pid, ""))
        for pid in pids
    ]


def check_picture_files(questions: Sequence[Question]) -> None:
    """Look for the picture file of every question.

    Raises:
        DataError: some are missing; names the first and says how many.
    """
    used = [question for question in questions if question.image is not None]
    missing = [question for question in used if question.image is not None and not is_file(question.image)]
    if missing:
        count = f"{len(missing)} of {len(used)} pictures are missing"
        fix = "fetch it, or set the problem's image to null"
        raise DataError(f"{missing[0].image}: missing picture of problem {shown(missing[0].id)}; {fix} ({count})")


def _split_pids(path: Path, split: str) -> list[str]:
    lists = read_object(path)
    known = [name for name in SPLITS if name in lists]
    if split not in known:
        near = get_close_matches(split, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'none of ' + ', '.join(SPLITS)}"
        raise NoSplit(f"{path}: no split {split!r}; {hint}")
    for name in known:
        _check_pids(lists[name], f"{path}: {name}")
    if not lists[split]:
        raise NoSplit(f"{path}: split {split!r} is empty; list at least one problem id")
    for one, other in combinations(known, 2):
        shared = set(lists[one]) & set(lists[other])
        if shared:
            first = min(shared)
            raise DataError(f"{path}: {shown(first)} is in both {one} and {other}; a problem belongs to one split")
    return list(lists[split])


def _check_pids(pids: object, where: str) -> None:
    if not isinstance(pids, list):
        raise DataError(f"{where} is {kind(pids)}; it must be a list of problem ids")
    wrong = next((pid for pid in pids if not isinstance(pid, str)), None)
    if wrong is not None:
        raise DataError(f'{where} has {kind(wrong)} {shown(wrong)}; problem ids must be texts, as in "12"')
    if len(set(pids)) < len(pids):
        twice = next(pid for pid, times in Counter(pids).items() if times > 1)
        raise DataError(f"{where} lists {shown(twice)} more than once; keep one")


def _read_captions(path: Path) -> Mapping[str, str]:
    captions = read_object(path).get("captions")
    if not isinstance(captions, dict):
        raise DataError(f'{path}: captions is {kind(captions)}; the file must be {{"captions": {{problem id: text}}}}')
    for pid, caption in captions.items():
        if not isinstance(caption, str):
            raise DataError(f"{path}: captions: the caption of {shown(pid)} is {kind(caption)}; it must be a text")
    return captions


def _question(problem: object, pid: str, where: str, pictures: Path, caption: str) -> Question:
    if not isinstance(problem, dict):
        raise DataError(f"{where} is {kind(problem)}; it must be an object")
    _require(problem, ("question", "choices", "answer"), where)
    if not isinstance(problem["question"], str):
        raise DataError(f"{where}: question is {kind(problem['question'])}; it must be a text")
    choices = _choices(problem["choices"], where)
    texts: dict[str, str] = {}
    for name in _OPTIONAL_TEXTS:
        value = problem.get(name)
        if value is not None and not isinstance(value, str):
            raise DataError(f"{where}: {name} is {kind(value)}; it must be a text or null")
        texts[name] = value or ""
    return Question(
        id=pid,
        image=_picture(problem.get("image"), pid, where, pictures),
        question=problem["question"],
        choices=choices,
        answer=_answer(problem["answer"], len(choices), where),
        caption=caption,
        **texts,
    )


def _require(problem: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    for name in names:
        if name not in problem:
            raise DataError(f"{where}: {name} is missing; add it")


def _choices(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise DataError(f"{where}: choices is {kind(value)}; it must be a list of texts")
    if not value:
        raise DataError(f"{where}: choices is empty; a problem needs at least one")
    if len(value) > len(LETTERS):
        raise DataError(f"{where}: choices has {len(value)} entries; there are letters for {len(LETTERS)}")
    wrong = next((choice for choice in value if not isinstance(choice, str)), "")
    if not isinstance(wrong, str):
        raise DataError(f"{where}: choices has {kind(wrong)}; each must be a text")
    return tuple(value)


def _answer(value: object, n_choices: int, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"{where}: answer is {kind(value)}; it must be an index into choices, from 0")
    if not 0 <= value < n_choices:
        raise DataError(f"{where}: answer {value} is out of range for {n_choices} choices; use 0 to {n_choices - 1}")
    return value


def _picture(value: object, pid: str, where: str, pictures: Path) -> Path | None:
    if value is None:
        return None
    # A bare name, so that no data file can point outside its own folder.
    if not isinstance(value, str) or not is_bare(value):
        raise DataError(f"{where}: image is {shown(value)}; it must be a file name such as image.png, or null")
    if not is_bare(pid):
        raise DataError(f"{where}: the id of a problem with a picture must be the name of a folder; give it a number")
    return pictures / pid / value
