"""Training recipes by backbone: recipes/<backbone>.toml, or recipes/paper.toml for every backbone without a file.

A recipe stands between the defaults of methods and tasks (the papers') and the command line.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from harness.backbones import Precision
from harness.settings import UsageError, suggest

FOLDER = Path(__file__).parent / "recipes"
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_TABLES = ("run", "train", "methods", "tasks")


@dataclass(frozen=True)
class Recipe:
    """One recipe file, with what it takes from its base.

    Attributes:
        name: the file's name without `.toml`.
        precision: of the frozen backbone; None leaves the choice to the device.
        train: fields of `TrainOptions` by name, as TOML gives them.
        methods: fields by method name, as TOML gives them.
        tasks: options by task name, as TOML gives them.
    """

    name: str
    precision: Precision | None
    train: dict[str, Any]
    methods: dict[str, dict[str, Any]]
    tasks: dict[str, dict[str, Any]]

    @property
    def file(self) -> str:
        """How error messages name the file."""
        return f"recipes/{self.name}.toml"


def load(backbone: str, folder: Path = FOLDER) -> Recipe:
    """The recipe of a backbone.

    Raises:
        UsageError: the file is no TOML, or has an unknown key or a value that is no table where one belongs.
    """
    known = [path.stem for path in folder.glob("*.toml")]
    return _read(backbone if backbone in known else "paper", folder)


def _read(name: str, folder: Path, *, is_base: bool = False) -> Recipe:
    path = folder / f"{name}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from None
    _check_keys(content, ("base", *_TABLES), path, "")
    base = content.get("base")
    run, train, methods, tasks = (_table(content, key, path) for key in _TABLES)
    _check_keys(run, ("precision",), path, "run.")
    own = Recipe(
        name=name,
        precision=run.get("precision"),
        train=train,
        methods={key: _table(methods, key, path, "methods.") for key in methods},
        tasks={key: _table(tasks, key, path, "tasks.") for key in tasks},
    )
    if own.precision not in (None, *PRECISIONS):
        raise UsageError(f"{path}: run.precision cannot be {own.precision!r}; known: {', '.join(PRECISIONS)}")
    if base is None:
        return own
    if is_base or not isinstance(base, str) or not (folder / f"{base}.toml").is_file():
        raise UsageError(f"{path}: base must name another recipe that has no base itself, got {base!r}")
    return _overlay(_read(base, folder, is_base=True), own)


def _overlay(base: Recipe, own: Recipe) -> Recipe:
    return dataclasses.replace(
        own,
        precision=own.precision or base.precision,
        train=overlay_train(base.train, own.train),
        methods={key: base.methods.get(key, {}) | own.methods.get(key, {}) for key in base.methods | own.methods},
        tasks={key: base.tasks.get(key, {}) | own.tasks.get(key, {}) for key in base.tasks | own.tasks},
    )


def overlay_train(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Training fields of two layers; a length in `own` replaces the one in `base`, whether epochs or steps."""
    lengths = {"epochs", "steps"}
    kept = {key: value for key, value in base.items() if key not in lengths or not lengths & own.keys()}
    return kept | dict(own)


def _table(content: dict[str, Any], key: str, path: Path, where: str = "") -> dict[str, Any]:
    table = content.get(key, {})
    if not isinstance(table, dict):
        raise UsageError(f"{path}: {where}{key} must be a table, got {table!r}")
    return table


def _check_keys(table: dict[str, Any], known: tuple[str, ...], path: Path, where: str) -> None:
    for key in table:
        if key not in known:
            raise UsageError(f"{path}: unknown key {where}{key}; {suggest(key, known)}")
