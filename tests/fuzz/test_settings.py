"""What is set: `--set` and the other flags, recipes and protocols."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

import methods
import tasks
from harness import cli, recipes, settings
from harness.plan import TrainOptions, build
from harness.settings import UsageError
from tests.fuzz.mutations import DIGITS, NAMES, bad_toml
from tests.fuzz.refusals import cases, check_line, fuzz

METHODS = ("ademvl", "memvp", "mwa", "lora", "llava", "blind")
VALUES = (
    *("", " ", "none", "null", "true", "-1", "0", "1.5", "nan", "inf", "-inf", "1e400", "1e308", "9" * 320),
    *("9" * DIGITS, "1,2,3", "1+", ",", "[[1]]", "{}", "x" * 100_000, "٣", "1_000", "0x10", "--", "=", "a=b", *NAMES),
)  # fmt: skip
WORDS = tuple(value for value in VALUES if "\0" not in value)
FLAGS = (
    *("--epochs", "--steps", "--batch-size", "--train-limit", "--eval-limit", "--seeds", "--tune", "--tune-share"),
    *("--checkpoint-minutes", "--checkpoint-steps", "--gpus", "--workers", "--protocol", "--backbone", "--data-root"),
    *("--precision", "--device", "--kernels", "--weights", "--llm", "--encoder", "--init", "--set", "--task"),
)  # fmt: skip


@functools.cache
def options(scope: str) -> type:
    """What `--set SCOPE.FIELD` sets."""
    return TrainOptions if scope == "train" else (tasks if scope in tasks.names() else methods).load(scope)


@pytest.fixture
def planned(folder: Path) -> Callable[[Sequence[str]], None]:
    base = ["run", "--methods", ",".join(METHODS), "--task", "scienceqa", "--results", str(folder), "--device", "cpu"]

    def plan(extra: Sequence[str]) -> None:
        args = cli.parse([*base, *extra])
        args.argv = ()
        build(args)

    return plan


def test_every_field(folder: Path) -> None:
    """Each field of a method, a task or the training, set to a strange value."""

    def read(case: tuple[str, Sequence[str], str]) -> None:
        scope, fields, word = case
        errors = []
        for field in fields:
            try:
                values = settings.read(options(scope), {field: word}, where=f"--set {scope}.")
                settings.make(options(scope), values, scope=scope)
            except UsageError as error:
                check_line(error, names=scope)
                errors.append(error)
        if errors:
            raise errors[0]

    def every(case: tuple[str, str]) -> tuple[str, Sequence[str], str]:
        scope, word = case
        return scope, [field.name for field in dataclasses.fields(options(scope))], word

    scopes = st.sampled_from([*METHODS, "train", *tasks.names()])
    inputs, good = st.tuples(scopes, st.sampled_from(VALUES)).map(every), ("memvp", ["slots"], "30")
    assert fuzz(read, inputs, good=good, folder=folder, names="").mostly_refused


def test_set(planned: Callable[[Sequence[str]], None], folder: Path) -> None:
    """`--set` of any form."""
    scopes = st.sampled_from([*METHODS, "train", "scienceqa", "elsewhere", *WORDS])
    fields = st.sampled_from(["scale", "slots", "lr", "steps", "overlong", *WORDS])
    items = st.builds("{}.{}={}".format, scopes, fields, st.sampled_from(WORDS))
    inputs = st.one_of(items, items, st.sampled_from(WORDS)).map(lambda item: ["--set", item])
    good = ["--set", "memvp.slots=30"]
    assert fuzz(planned, inputs, good=good, folder=folder, names="", count=cases(60)).mostly_refused


def test_other_flags(planned: Callable[[Sequence[str]], None], folder: Path) -> None:
    flags = st.tuples(st.sampled_from(FLAGS), st.sampled_from(WORDS))
    inputs = flags.map(lambda flag: [f"{flag[0]}={flag[1]}"])
    good = ["--epochs=3"]
    assert fuzz(planned, inputs, good=good, folder=folder, names="", count=cases(120)).mostly_refused


@pytest.mark.parametrize("flag", ["--data-root", "--llm", "--encoder", "--init=memvp", "--protocol", "--task"])
def test_names_of_files(flag: str, planned: Callable[[Sequence[str]], None], folder: Path) -> None:
    """A name that no file can have is refused, or not looked for before it is needed."""
    backbone = {"--llm": ["--vision", "x"], "--encoder": ["--backbone", "beit3-base", "--tokenizer", "x"]}
    inputs = st.sampled_from([word for word in NAMES if "\0" not in word]).map(lambda name: [f"{flag}={name}"])

    def read(extra: Sequence[str]) -> None:
        planned([*extra, *(backbone.get(flag, []) if extra else [])])

    found = fuzz(read, inputs, good=[], folder=folder, names="", count=8)
    # An LLM's folder is looked for when it is loaded; tests/fuzz/test_backbones.py has that.
    assert found.refused or flag == "--llm"


TOMLS = {
    "recipe": (recipes.FOLDER, "mini", recipes.load),
    "protocol": (recipes.PROTOCOLS, "paper-ademvl", recipes.protocol),
}


@pytest.mark.parametrize("kind", TOMLS)
def test_toml(kind: str, folder: Path) -> None:
    """Read, and its values put into the fields of training, methods and tasks."""
    source, name, load = TOMLS[kind]
    files = shutil.copytree(source, folder / "files")
    good = (files / f"{name}.toml").read_text(encoding="utf-8")

    def read(content: bytes) -> None:
        (files / f"{name}.toml").write_bytes(content)
        recipe = load(name, files)
        for method in METHODS:
            fill(TrainOptions, recipe.train_of(method, "scienceqa"))
            fill(methods.load(method), recipe.methods.get(method, {}))
        fill(tasks.load("scienceqa"), recipe.tasks.get("scienceqa", {}))

    def fill(cls: type, values: dict[str, object]) -> None:
        settings.make(cls, settings.read(cls, values, where=f"{files}: "), scope=str(files))

    rest: Any = {"folder": folder, "errors": (UsageError,), "count": cases(120)}
    assert fuzz(read, bad_toml(good), good=good.encode(), **rest).mostly_refused
