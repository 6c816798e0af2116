"""The commands of README.md are understood as they stand; those that train are planned in full."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import commands, shown, understand

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
COMMANDS = commands(README)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command: str, tmp_path: Path) -> None:
    understand(command, tmp_path)


def test_the_readme_has_commands() -> None:
    assert len(COMMANDS) > 5
    assert "python -m pip install tox" in shown(README)
    assert "tox run -e demo" in shown(README)
