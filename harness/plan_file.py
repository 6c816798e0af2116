"""`run --plan FILE.toml`: a study written down as the `run` commands it consists of, with its data, hardware and hours.

title = "..."        # what it compares
data = "..."         # and where it comes from
hardware = "..."
hours = 1.5          # on that hardware

[shared]             # flags of every run, by name: --eval-limit 500 is eval_limit = 500
methods = "all"
set = { "train.lr" = 1e-3 }

[[runs]]             # one `run` command each; a list is a comma list, or one command for each of its values
task = "scienceqa"
batch_size = [1, 8]
"""

from __future__ import annotations

import argparse
import itertools
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.nesting import TOO_DEEP, check_depth
from harness.settings import UsageError, as_text, suggest

_SAID: dict[str, type | tuple[type, ...]] = {"title": str, "data": str, "hardware": str, "hours": (int, float)}
_LISTS = ("methods", "task", "seeds")
"""Flags that take a comma list themselves."""
_SWITCHES = ("save", "isolate", "tensorboard")
_VALUES = (
    *("backbone", "llm", "vision", "encoder", "tokenizer", "weights", "protocol", "precision", "kernels"),
    *("epochs", "steps", "batch_size", "train_limit", "eval_limit", "text_tokens", "image_size"),
    *("tune", "tune_seconds", "tune_share"),
)
_FLAGS = (*_LISTS, *_VALUES, *_SWITCHES, "set")
_LENGTHS = ("--epochs", "--steps")
MOST_RUNS = 1_000


@dataclass(frozen=True)
class PlanFile:
    """A study: what it is, and the words of each `run` command that it consists of."""

    title: str
    data: str
    hardware: str
    hours: float
    runs: tuple[tuple[str, ...], ...]


def read(path: Path) -> PlanFile:
    """A plan file, its keys and its form checked; the commands themselves are checked as any other.

    Raises:
        UsageError: no such file, no TOML, a key that is unknown, missing, or of another type.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        check_depth(content)
    except OSError as error:
        raise UsageError(f"--plan {path}: {error.strerror}; name a plan file") from None
    except ValueError as error:
        raise UsageError(f"--plan {path}: {error}") from None
    except RecursionError:
        raise UsageError(f"--plan {path}: {TOO_DEEP}") from None
    _known(content, (*_SAID, "shared", "runs"), f"{path}: ")
    for key, kind in _SAID.items():
        if not isinstance(content.get(key), kind) or isinstance(content[key], bool):
            got = f", got {content[key]!r}" if key in content else "; add it"
            raise UsageError(f"{path}: {key} must be {'a number' if key == 'hours' else 'a text'}{got}")
    shared, runs = content.get("shared", {}), content.get("runs")
    if not isinstance(shared, dict):
        raise UsageError(f"{path}: shared must be a table of flags, got {shared!r}")
    if not isinstance(runs, list) or not runs or not all(isinstance(run, dict) for run in runs):
        raise UsageError(f"{path}: runs must be at least one [[runs]] table")
    commands = (
        tuple(command)
        for number, run in enumerate(runs, start=1)
        for command in _commands(_merged(shared, run), f"{path}: runs {number}: ")
    )
    words = list(itertools.islice(commands, MOST_RUNS + 1))
    if len(words) > MOST_RUNS:
        raise UsageError(f"{path}: makes more than {MOST_RUNS:,} commands; take several plans")
    return PlanFile(content["title"], content["data"], content["hardware"], float(content["hours"]), tuple(words))


def arguments(
    plan: PlanFile, argv: Sequence[str], parse: Callable[[Sequence[str]], argparse.Namespace]
) -> list[argparse.Namespace]:
    """The arguments of each command of a plan; what the command line gives beside `--plan` stands over the plan.

    Each has as `argv` a command that needs no plan, so that its records can be reproduced by themselves.

    Raises:
        UsageError: a command that cannot be understood; its place in the plan is named.
    """
    own = _without_plan(argv)
    found: list[argparse.Namespace] = []
    for number, words in enumerate(plan.runs, start=1):
        command = ("run", *(word for word in words if not _overruled(word, own)), *own)
        if any(args.argv == command for args in found):  # they differed in what the command line has overruled
            continue
        try:
            args = parse(command)
        except UsageError as error:
            raise UsageError(f"command {number} of the plan: {error}") from None
        args.argv = command
        found.append(args)
    return found


def _without_plan(argv: Sequence[str]) -> list[str]:
    """The words of the command line after `run`, less `--plan FILE`."""
    words, kept = iter(argv[1:]), []
    for word in words:
        if word == "--plan":
            next(words, None)
        elif not word.startswith("--plan="):
            kept.append(word)
    return kept


def _overruled(word: str, own: Sequence[str]) -> bool:
    """Whether the command line says itself what this word of a plan does; of epochs and steps only one may stand."""
    flag, _, value = word.partition("=")
    if flag == "--set":
        field = f"{value.partition('=')[0]}="
        fields = [own[place + 1] for place, said in enumerate(own[:-1]) if said == "--set"]
        fields += [said.removeprefix("--set=") for said in own if said.startswith("--set=")]
        return any(said.strip().startswith(field) for said in fields)
    alike = _LENGTHS if flag in _LENGTHS else (flag,)
    return any(said.partition("=")[0] in alike for said in own)


def _merged(shared: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of one run over those of all; `set` is merged field by field, a length replaces the other one."""
    lengths = {flag.removeprefix("--") for flag in _LENGTHS}
    base = {key: value for key, value in shared.items() if key not in lengths or not lengths & run.keys()}
    both = base | dict(run)
    if isinstance(shared.get("set"), dict) and isinstance(run.get("set"), dict):
        both["set"] = shared["set"] | run["set"]
    return both


def _commands(flags: Mapping[str, Any], where: str) -> Iterator[list[str]]:
    """The words of the commands that one table of flags stands for: one for each choice of its lists."""
    _known(flags, _FLAGS, where)
    choices = []
    for key, value in flags.items():
        flag = f"--{key.replace('_', '-')}"
        if key == "set":
            choices.append([_settings(value, where)])
        elif key in _SWITCHES:
            if not isinstance(value, bool):
                raise UsageError(f"{where}{key} must be true or false, got {value!r}")
            off = ["--no-isolate"] if key == "isolate" else []
            choices.append([[flag] if value else off])
        else:
            items = value if isinstance(value, list) else [value]
            if not items:
                raise UsageError(f"{where}{key} is an empty list; name something")
            texts = [_text(item, where, key) for item in items]
            choices.append([[f"{flag}={text}"] for text in ([",".join(texts)] if key in _LISTS else texts)])
    for chosen in itertools.product(*choices):
        yield [word for words in chosen for word in words]


def _settings(table: Any, where: str) -> list[str]:
    if not isinstance(table, dict):
        raise UsageError(f'{where}set must be a table such as {{ "train.lr" = 1e-3 }}, got {table!r}')
    return [f"--set={name}={as_text(value)}" for name, value in table.items()]


def _text(value: Any, where: str, key: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{where}{key} must be a text, a number or a list of such, got {value!r}")
    return str(value)


def _known(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise UsageError(f"{where}unknown key {key}; {suggest(key, known)}")
