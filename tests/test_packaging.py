"""What a distribution contains, and that the files beside the code agree with each other."""

from __future__ import annotations

import ast
import configparser
import glob
import importlib
import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from harness.tables import published

ROOT = Path(__file__).parents[1]
TOP = ("harness", "methods", "tasks")
IMPORTED_AS = {"pillow": "PIL", "nvidia-ml-py": "pynvml"}
COMES_WITH_TRANSFORMERS = {"huggingface_hub", "tokenizers"}
COMES_WITH_PYDANTIC = {"pydantic_core"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~\[; ]", requirement)[0] for requirement in requirements}


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_every_package_is_listed(project: dict[str, Any]) -> None:
    found = {".".join(path.parent.relative_to(ROOT).parts) for top in TOP for path in (ROOT / top).rglob("__init__.py")}
    assert sorted(project["tool"]["setuptools"]["packages"]) == sorted(found)


def test_every_module_lies_in_a_package() -> None:
    loose = [path for top in TOP for path in (ROOT / top).rglob("*.py") if not (path.parent / "__init__.py").exists()]
    assert not loose


def test_package_data_is_there(project: dict[str, Any]) -> None:
    for package, patterns in project["tool"]["setuptools"]["package-data"].items():
        folder = ROOT.joinpath(*package.split("."))
        for pattern in patterns:
            found = glob.glob(pattern, root_dir=folder, recursive=True)
            assert any((folder / name).is_file() for name in found), f"{package}: nothing matches {pattern}"


def test_published_figures_are_installed_where_they_are_looked_for(
    project: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    [(place, patterns)] = project["tool"]["setuptools"]["data-files"].items()
    files = [path for pattern in patterns for path in ROOT.glob(pattern)]
    assert files == [path for path in files if path.parent == published.folder()]
    assert len(published.read(published.folder())) == len(files) > 0
    monkeypatch.setattr(published, "__file__", str(tmp_path / "site-packages/harness/tables/published.py"))
    monkeypatch.setattr(published.sysconfig, "get_path", lambda name: str(tmp_path))
    assert published.folder() == tmp_path / place
    with pytest.raises(published.PublishedError, match="copy results/published of the repository there"):
        published.read(published.folder())


def test_the_console_script_exists(project: dict[str, Any]) -> None:
    module, _, function = project["project"]["scripts"]["vltune"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_every_import_is_declared(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    declared = names(project["project"]["dependencies"]).union(*(names(extra) for extra in extras.values()))
    known = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in declared} | COMES_WITH_TRANSFORMERS
    known |= COMES_WITH_PYDANTIC
    known |= {*TOP, *sys.stdlib_module_names}
    for path in (path for top in TOP for path in (ROOT / top).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported = {str(node.module).partition(".")[0]}
            else:
                continue
            assert imported <= known, f"{path}: {imported - known}"


def test_what_tests_install_is_pinned(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    installed = names([*project["project"]["dependencies"], *extras["dev"], *extras["smol"]])
    pinned = constraints()
    assert installed <= pinned.keys()
    assert pinned["torch"] == "2.13.0"
    assert "triton" not in pinned


def test_ci_and_readme_call_environments_that_exist() -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    known = {section.removeprefix("testenv:") for section in tox.sections()}
    for name in (".ci/run", "README.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        called = [env for envs in re.findall(r"tox run -e ([\w,]+)", text) for env in envs.split(",")]
        assert called
        assert set(called) <= known
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert "\ntox run -e py,interp\n" in ci
    assert "`tox run -e py,interp`" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_the_documentation_is_built_with_its_extra(project: dict[str, Any]) -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    assert tox["testenv:docs"]["deps"].split() == project["project"]["optional-dependencies"]["docs"]
    assert "--strict" in tox["testenv:docs"]["commands"]
    assert "mkdocs-material" in constraints()


def test_the_matrix_runs_on_the_device_that_it_names() -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    [name] = [name for name in tox.sections() if name.startswith("testenv:{gpu,cpu}")]
    devices = [line.split(": DEVICE = ") for line in tox[name]["set_env"].splitlines() if ": DEVICE = " in line]
    assert devices == [["gpu0,gpu1,gpu2,gpu3", "cuda:0"], ["cpu0,cpu1,cpu2,cpu3", "cpu"]]
    assert "--device {env:DEVICE}" in tox[name]["commands"]
    assert int(tox[name]["interrupt_timeout"]) > 10, "a training that is asked to leave may take so long"


def test_the_demo_command_parses() -> None:
    from harness import cli

    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    words = tox["testenv:demo"]["commands"].replace("{posargs}", "").split()
    assert words[:3] == ["python", "-m", "harness"]
    assert cli.parser().parse_args(words[3:]).methods == "ademvl,memvp"
