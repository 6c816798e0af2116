"""Training recipes by backbone (recipes/<backbone>.toml, or recipes/paper.toml for the others) and protocols.

A recipe stands between the defaults of methods and tasks (the papers') and the command line. What is under `[train]`
holds for every cell; `[train.tasks.NAME]` overrules it for one task, and `[train.methods.NAME]` the learning rate (only
that: all methods get the same steps, batches and schedule) for one method.

A protocol (protocols/NAME.toml) is laid over the recipe. It has the same form; each of its values is a table of the
`value` and its `source`.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from harness.backbones import Precision
from harness.nesting import TOO_DEEP, check_depth
from harness.settings import UsageError, suggest

FOLDER = Path(__file__).parent / "recipes"
PROTOCOLS = FOLDER.parent / "protocols"
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_LENGTHS = {"epochs", "steps"}
_TABLES = ("run", "train", "methods", "tasks")


@dataclass(frozen=True)
class Recipe:
    """One recipe file, with what it takes from its base.

    Attributes:
        name: the file's name without `.toml`.
        precision: of the frozen backbone; None leaves the choice to the device.
        train: fields of `TrainOptions` by name, as TOML gives them.
        train_tasks: the same by task name.
        train_methods: the learning rate by method name; nothing else may differ between methods.
        methods: fields by method name, as TOML gives them.
        tasks: options by task name, as TOML gives them.
    """

    name: str
    precision: Precision | None
    train: dict[str, Any]
    train_tasks: dict[str, dict[str, Any]]
    train_methods: dict[str, dict[str, Any]]
    methods: dict[str, dict[str, Any]]
    tasks: dict[str, dict[str, Any]]

    def train_of(self, method: str, task: str) -> dict[str, Any]:
        """The training fields of one cell."""
        train = overlay_train(self.train, self.train_tasks.get(task, {}))
        return overlay_train(train, self.train_methods.get(method, {}))

    @property
    def file(self) -> str:
        """How error messages name the file."""
        return f"recipes/{self.name}.toml"

    def under(self, protocol: Recipe) -> Recipe:
        """This recipe with a protocol laid over it."""
        return dataclasses.replace(_overlay(self, protocol), name=self.name)


def protocol_names(folder: Path = PROTOCOLS) -> list[str]:
    """Every protocol that `--protocol` takes."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def protocol(name: str, folder: Path = PROTOCOLS) -> Recipe:
    """A protocol by name.

    Raises:
        UsageError: no such protocol; or a file as in `load`, or a value without its source.
    """
    if name not in protocol_names(folder):
        raise UsageError(f"unknown protocol {name!r}; {suggest(name, protocol_names(folder))}")
    return _read(name, folder, sourced=True)


def load(backbone: str, folder: Path = FOLDER) -> Recipe:
    """The recipe of a backbone.

    Raises:
        UsageError: the file is no TOML, or has an unknown key or a value that is no table where one belongs.
    """
    known = [path.stem for path in folder.glob("*.toml")]
    return _read(backbone if backbone in known else "paper", folder)


def _read(name: str, folder: Path, *, is_base: bool = False, sourced: bool = False) -> Recipe:
    path = folder / f"{name}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        check_depth(content)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from None
    except RecursionError:
        raise UsageError(f"{path}: {TOO_DEEP}") from None
    if sourced:
        content = _values(content, path, "")
    _check_keys(content, ("base", *_TABLES), path, "")
    base = content.get("base")
    run, train = _table(content, "run", path), _table(content, "train", path)
    _check_keys(run, ("precision",), path, "run.")
    own = Recipe(
        name=name,
        precision=run.get("precision"),
        train={key: value for key, value in train.items() if key not in ("tasks", "methods")},
        train_tasks=_tables(train, "tasks", path, "train."),
        train_methods=_tables(train, "methods", path, "train."),
        methods=_tables(content, "methods", path, ""),
        tasks=_tables(content, "tasks", path, ""),
    )
    for name, fields in own.train_methods.items():
        _check_keys(fields, ("lr",), path, f"train.methods.{name}.")
    if own.precision not in (None, *PRECISIONS):
        raise UsageError(f"{path}: run.precision cannot be {own.precision!r}; known: {', '.join(PRECISIONS)}")
    if base is None:
        return own
    if is_base or base not in [path.stem for path in folder.glob("*.toml")]:
        raise UsageError(f"{path}: base must name another recipe that has no base itself, got {base!r}")
    return _overlay(_read(base, folder, is_base=True), own)


def _values(table: dict[str, Any], path: Path, where: str) -> dict[str, Any]:
    """A protocol's tables with each `{value, source}` replaced by its value."""
    found = {}
    for key, entry in table.items():
        if not isinstance(entry, dict) or ("value" in entry) != ("source" in entry):
            raise UsageError(f"{path}: {where}{key} must be a table or {{ value = ..., source = ... }}, got {entry!r}")
        found[key] = entry["value"] if "value" in entry else _values(entry, path, f"{where}{key}.")
    return found


def _overlay(base: Recipe, own: Recipe) -> Recipe:
    return dataclasses.replace(
        own,
        precision=own.precision or base.precision,
        train=overlay_train(base.train, own.train),
        train_tasks=_merged(_without(base.train_tasks, own.train), own.train_tasks),
        train_methods=_merged(_without(base.train_methods, own.train), own.train_methods),
        methods=_merged(base.methods, own.methods),
        tasks=_merged(base.tasks, own.tasks),
    )


def _merged(base: dict[str, dict[str, Any]], own: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {key: overlay_train(base.get(key, {}), own.get(key, {})) for key in base | own}


def _without(tables: dict[str, dict[str, Any]], train: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What stays of the base's exceptions where the layer above says `train` for all."""
    gone = set(train) | (_LENGTHS if _LENGTHS & train.keys() else set())
    return {name: {key: value for key, value in fields.items() if key not in gone} for name, fields in tables.items()}


def overlay_train(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Training fields of two layers; a length in `own` replaces the one in `base`, whether epochs or steps."""
    kept = {key: value for key, value in base.items() if key not in _LENGTHS or not _LENGTHS & own.keys()}
    return kept | dict(own)


def _table(content: dict[str, Any], key: str, path: Path, where: str = "") -> dict[str, Any]:
    table = content.get(key, {})
    if not isinstance(table, dict):
        raise UsageError(f"{path}: {where}{key} must be a table, got {table!r}")
    return table


def _tables(content: dict[str, Any], key: str, path: Path, where: str) -> dict[str, dict[str, Any]]:
    """The tables within the table `key`, by name."""
    tables = _table(content, key, path, where)
    return {name: _table(tables, name, path, f"{where}{key}.") for name in tables}


def _check_keys(table: dict[str, Any], known: tuple[str, ...], path: Path, where: str) -> None:
    for key in table:
        if key not in known:
            raise UsageError(f"{path}: unknown key {where}{key}; {suggest(key, known)}")
