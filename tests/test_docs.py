"""What the documentation says is so: commands, links, code blocks, and its tables of settings, sizes and recipes."""

from __future__ import annotations

import dataclasses
import re
import tomllib
import typing
import unicodedata
from pathlib import Path
from typing import Any

import pytest

import methods
import tasks
from harness import cli, plan, recipes, settings
from harness.meters import params
from methods.mwa import CHOICES
from tasks.io.picture_task import PictureTask
from tests.commands import blocks, commands, prose, understand

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*DOCS, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "results/README.md"))]
TEXTS = {path: path.read_text(encoding="utf-8") for path in PAGES}
COMMANDS = [
    pytest.param(command, id=f"{path.name}: {' '.join(command.split())}")
    for path in PAGES
    if path.parent == ROOT / "docs" or path.name == "CONTRIBUTING.md"
    for command in commands(TEXTS[path])
]
CODE = [
    pytest.param(block, id=f"{path.name} {number}")
    for path in PAGES
    for number, block in enumerate(blocks(TEXTS[path], "python"))
    if path.name != "CONTRIBUTING.md"  # tests/test_contributing.py runs those
]
NOTHING = "–"


def page(name: str) -> str:
    return TEXTS[ROOT / "docs" / name]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command: str, tmp_path: Path) -> None:
    understand(command, tmp_path)


def test_most_pages_have_commands() -> None:
    assert len(COMMANDS) > 30


@pytest.mark.parametrize("block", CODE)
def test_a_code_block_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").symlink_to(ROOT / "results")
    exec(compile(block, "block", "exec"), {"__name__": "block"})


# Links -------------------------------------------------------------------------------------------------------------


def slugs(path: Path) -> set[str]:
    """The anchors of a page's headings that GitHub and MkDocs agree on."""
    headings = re.findall(r"^#+ (.+)$", prose(path.read_text(encoding="utf-8")), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower() for heading in headings]
    github = {re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-") for text in plain}
    ascii_only = [unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode() for text in plain]
    mkdocs = {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip()) for text in ascii_only}
    return github & mkdocs


def links(path: Path) -> list[str]:
    """The targets of a page's links and pictures that are files, or places on the same page."""
    text = re.sub(r"`[^`]*`", "", prose(TEXTS[path]))
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    for link in links(path):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert not anchor or anchor in slugs(target), link
        # A page of the site cannot link what is not part of it.
        assert path not in DOCS or target.is_relative_to(ROOT / "docs"), link


def test_the_site_has_links() -> None:
    assert sum(len(links(path)) for path in PAGES) > 40


NOT_THERE = {
    "results/runs": "runs make it",
    "results/adapters": "run --save makes it",
    "results/profiles": "run --profile makes it",
    "results/tensorboard": "run --tensorboard makes it",
    "methods/meantoken.py": "where the example of CONTRIBUTING.md would be",
}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_that_are_named_exist(path: Path) -> None:
    named = re.findall(r"(?<![\w./])((?:docs|harness|methods|results|tasks|tests)/[\w./*-]+)", TEXTS[path])
    for name in (name.rstrip("./") for name in named):
        assert name in NOT_THERE or "NAME." in name or any(ROOT.glob(name)), name


# Tables ------------------------------------------------------------------------------------------------------------


def section(text: str, title: str) -> str:
    """What stands under a heading of the second level."""
    parts = re.split(r"^## (.+)$", prose(text), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[title]


def table(text: str, first: str) -> list[dict[str, str]]:
    """The rows of the table whose first column has this title, by the titles of the columns; none without one."""
    lines = text.splitlines()
    start = next((place for place, line in enumerate(lines) if line.startswith(f"| {first} |")), None)
    if start is None:
        return []
    end = next((place for place in range(start, len(lines)) if not lines[place].startswith("|")), len(lines))
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:end])
    return [dict(zip(head, row, strict=True)) for row in rows]


def check_defaults(rows: list[dict[str, str]], cls: type, fields: list[dataclasses.Field[Any]], first: str) -> None:
    """Every field has its row, in order, with its default as `--set` takes it."""
    hints = typing.get_type_hints(cls)
    assert [row[first] for row in rows] == [f"`{field.name}`" for field in fields]
    for row, field in zip(rows, fields, strict=True):
        assert settings.parse(hints[field.name], row["default"]) == field.default, field.name


@pytest.mark.parametrize("name", methods.names())
def test_settings_of_a_method(name: str) -> None:
    cls, rows = methods.load(name), table(section(page("methods.md"), name), "setting")
    check_defaults(rows, cls, list(dataclasses.fields(cls)), "setting")


def test_choices_of_mwa() -> None:
    rows = {row["setting"]: row["meaning"] for row in table(section(page("methods.md"), "mwa"), "setting")}
    for field, choices in CHOICES.items():
        assert all(f"`{choice}`" in rows[f"`{field}`"] for choice in choices), field


def test_what_tune_may_search() -> None:
    rows = {row["method"]: row["fields"] for row in table(page("tuning.md"), "method")}
    for name in set(methods.names()) - {"blind"}:
        searched = {f"`{field.name}`" for field in dataclasses.fields(methods.load(name)) if field.metadata.get("tune")}
        [said] = [fields.partition("Not ")[0] for names, fields in rows.items() if f"`{name}`" in names]
        assert set(re.findall(r"`\w+`", said)) == searched


COMMON = {field.name: field for field in dataclasses.fields(PictureTask)}
SHARED = ("split", "overlong", "folder")


@pytest.mark.parametrize("name", tasks.names())
def test_options_of_a_task(name: str) -> None:
    cls = tasks.load(name)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    # What a task changes of the shared options stands in its own table too.
    own = [
        field for field in fields.values() if field.name not in SHARED or field.default != COMMON[field.name].default
    ]
    shared = table(section(page("tasks.md"), "What all tasks share"), "option")
    rows = table(section(page("tasks.md"), name), "option")
    check_defaults(shared, cls, [COMMON[field] for field in SHARED], "option")
    by_name = {row["option"].strip("`"): row for row in rows}
    assert len(by_name) == len(rows)
    assert by_name.keys() == {field.name for field in own}
    check_defaults([by_name[field.name] for field in own], cls, own, "option")
    hints, uniform = typing.get_type_hints(cls), recipes.protocol("uniform").tasks[name]
    for row in (*shared, *rows):
        field = fields[row["option"].strip("`")]
        said = row["uniform"]
        value = None if said == NOTHING else settings.as_text(settings.parse(hints[field.name], said))
        assert value == (settings.as_text(uniform[field.name]) if field.name in uniform else None), field.name
        if not field.name.endswith("_format"):
            choices = [choice for choice in field.metadata.get("choices", ()) if isinstance(choice, str)]
            assert all(f"`{choice}`" in row["meaning"] for choice in choices), field.name


def test_formats_of_scienceqa() -> None:
    from tasks.io.scienceqa_prompt import FORMATS, TEXT_FORMATS

    known = [*FORMATS, *TEXT_FORMATS]
    assert sorted(known) in [sorted(block.split()) for block in blocks(page("tasks.md"), "text")]
    assert f"There are {len(known)} formats" in page("tasks.md")


def test_options_of_the_training() -> None:
    rows = table(section(page("quickstart.md"), "Go on"), "option")
    check_defaults(rows, plan.TrainOptions, list(dataclasses.fields(plan.TrainOptions)), "option")


@pytest.mark.parametrize("backbone", ["mini", "llama-7b", "llama-13b", "beit3-base", "beit3-large"])
def test_parameters(backbone: str) -> None:
    args = cli.parse(["params", "--methods", "all", "--backbone", backbone])
    counted = params.count(plan.build_methods(args), plan.backbone_spec(args, shapes=True))
    said = {row["method"]: row[backbone] for row in table(section(page("methods.md"), "Parameters"), "method")}
    expected = {f"`{row['method']}`": row["trainable_params"] for row in counted}
    assert said == {name: NOTHING if count is None else f"{count:,}" for name, count in expected.items()}


def leaves(values: dict[str, Any], where: str = "") -> dict[str, Any]:
    """The values of nested tables by their path."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= leaves(value, f"{where}{key}.") if isinstance(value, dict) else {where + key: value}
    return found


@pytest.mark.parametrize("name", ["mini", "smol", "paper"])
def test_recipes(name: str) -> None:
    recipe = leaves(tomllib.loads((recipes.FOLDER / f"{name}.toml").read_text(encoding="utf-8")))
    rows = table(section(page("backbones.md"), "Recipes"), "value")
    said = {row["value"].strip("`"): row[f"`{name}`"] for row in rows if row[f"`{name}`"] != NOTHING}
    assert said.keys() == recipe.keys()
    for key, value in recipe.items():
        text = said[key]
        assert text == settings.as_text(value) or settings.parse(type(value), text) == value, key


def test_every_recipe_is_spoken_of() -> None:
    text = section(page("backbones.md"), "Recipes")
    assert all(f"`{path.stem}`" in text for path in recipes.FOLDER.glob("*.toml"))


# Installation ------------------------------------------------------------------------------------------------------


def test_extras() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].keys() - {"dev", "docs"}
    rows = table(section(page("quickstart.md"), "Install"), "extra")
    assert {row["extra"].strip("`") for row in rows} == extras
