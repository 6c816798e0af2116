"""What Markdown files show: code blocks, and commands, which are to be understood as they stand."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness import cli, plan, plan_file

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHELL = ("", "bash")
CALL = r"(?:vltune|(?:python )?-m harness)\s+(.+)"
# What stands for something of the reader's own.
PLACEHOLDERS = {
    "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT": "2/16",
    "results/plans/NAME.toml": "results/plans/mini.toml",
}
FOLDERS = ("DIR", "FOLDER")
FILES = ("beit3_base.pth", "beit3.spm")
"""Of the reader's own, which a plan looks for."""
ANY_CELL = ["--methods", "ademvl", "--task", "scienceqa"]
"""What the three dots of a command leave out."""
NAMES = ("run", "reproduce", "flops")
"""Commands that prose names without what they need."""
ROOT = Path(__file__).parents[1]


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced blocks of these languages ("" for those without one)."""
    return [content for language, content in FENCED.findall(text) if language in languages]


def prose(text: str) -> str:
    """All but the fenced blocks."""
    return FENCED.sub("", text)


def shown(text: str) -> list[str]:
    """The lines of shell blocks; one that goes on behind a backslash is one line."""
    return [line for block in blocks(text, *SHELL) for line in block.replace("\\\n", " ").splitlines()]


def commands(text: str) -> list[str]:
    """The arguments of each call of vltune, in prose between backticks or in a shell block (behind other words too)."""
    spoken = [re.fullmatch(CALL, span, re.DOTALL) for span in re.findall(r"`([^`]+)`", prose(text))]
    called = [re.search(rf"(?:^|\s){CALL}", line) for line in shown(text)]
    return [match[1] for match in (*spoken, *called) if match]


def understand(command: str, folder: Path) -> None:
    """Parse a command; of one that runs, make the whole plan. A bare name must be that of a command."""
    words = _words(command, folder)
    if command in NAMES or words[-1] == "--help":
        with pytest.raises(SystemExit, match="0"):
            cli.parse([word for word in words if word != "--help"] + ["--help"])
        return
    args = cli.parse(words)
    for run in _runs(args, words):
        # These come with extras, and a plan asks for them.
        extras = {"optuna": run.tune, "ray": run.executor == "ray", "tensorboard": run.tensorboard}
        for package in (package for package, wanted in extras.items() if wanted):
            pytest.importorskip(package)
        run.results, run.data_root = folder, None if run.data_root is None else folder
        assert plan.build(run).cells


def _runs(args: argparse.Namespace, words: Sequence[str]) -> list[argparse.Namespace]:
    """What a command runs: itself, those of its plan file, or nothing."""
    if words[0] != "run":
        return []
    args.argv = tuple(words)
    if args.plan is None:
        return [args]
    return plan_file.arguments(plan_file.read(ROOT / args.plan), args.argv, cli.parse)


def _words(command: str, folder: Path) -> list[str]:
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(command, comments=True)]
    for name in set(words) & set(FILES):
        (folder / name).touch()
    words = [str(folder / word) if word in FILES else str(folder) if word in FOLDERS else word for word in words]
    return [part for word in words for part in (ANY_CELL if word == "..." else [word])]
