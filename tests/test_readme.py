"""The commands of README.md are understood as they stand; those that train are planned in full."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from harness import cli, plan

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SPOKEN = re.findall(r"`((?:vltune|python -m harness) [^`]+)`", README)
SHOWN = [line for block in re.findall(r"```\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
COMMANDS = [line for line in (*SPOKEN, *SHOWN) if line.startswith(("vltune ", "python -m harness "))]


def words(command: str, folder: Path) -> list[str]:
    arguments = shlex.split(command.removeprefix("vltune ").removeprefix("python -m harness "))
    return [str(folder) if word == "DIR" else word for word in arguments]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command: str, tmp_path: Path) -> None:
    args = cli.parser().parse_args(words(command, tmp_path))
    if words(command, tmp_path)[0] == "run":
        args.argv, args.results = (), tmp_path
        assert plan.build(args).cells


def test_the_readme_has_commands() -> None:
    assert len(COMMANDS) > 5
    assert "python -m pip install tox" in SHOWN
    assert "tox run -e demo" in SHOWN
