"""Protocols: every shipped one is valid, sourced, and does what its paper's authors did."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

import methods
import tasks
from harness import cli, plan, recipes, settings
from harness.plan import Plan, TrainOptions
from harness.settings import UsageError


def planned(tmp_path: Path, *more: str) -> Plan:
    command = ["run", "--methods", "ademvl,memvp", "--task", "scienceqa", "--device", "cpu"]
    args = cli.parser().parse_args([*command, "--results", str(tmp_path), *more])
    args.argv = ()
    return plan.build(args)


def values(table: dict[str, Any]) -> list[dict[str, Any]]:
    return [table] if "value" in table else [leaf for entry in table.values() for leaf in values(entry)]


@pytest.mark.parametrize("name", recipes.protocol_names())
def test_every_value_is_known_and_has_a_source(name: str) -> None:
    content = tomllib.loads((recipes.PROTOCOLS / f"{name}.toml").read_text(encoding="utf-8"))
    assert values(content)
    sources = [str(leaf["source"]) for leaf in values(content)]
    assert min(map(len, sources)) > 10
    # What readers of this repository cannot look up is no source.
    notes = ("PUBLISHED.md", "METHODS.md", "golden")
    assert not [source for source in sources if any(note in source for note in notes)]
    protocol = recipes.protocol(name)
    for train in (protocol.train, *protocol.train_tasks.values(), *protocol.train_methods.values()):
        settings.read(TrainOptions, train, where="train.")
    for scope, fields in protocol.methods.items():
        settings.make(methods.load(scope), settings.read(methods.load(scope), fields, where=""), scope=scope)
    for scope, fields in protocol.tasks.items():
        settings.make(tasks.load(scope), settings.read(tasks.load(scope), fields, where=""), scope=scope)


def test_a_protocol_wins_over_the_recipe_and_the_command_line_over_both(tmp_path: Path) -> None:
    ademvl, memvp = planned(tmp_path, "--protocol", "paper-ademvl", "--set", "ademvl.beta=0.5").cells
    assert (ademvl.train.epochs, ademvl.train.steps, ademvl.train.lr) == (20, None, 1.125e-3)
    assert ademvl.method.beta == 0.5  # type: ignore[attr-defined]
    assert ademvl.method.alpha == 0.1  # type: ignore[attr-defined]
    assert ademvl.task.train_format == "CQM-A"  # type: ignore[attr-defined]
    assert ademvl.task.eval_captions is True  # type: ignore[attr-defined]
    assert memvp.method.slots == 80  # type: ignore[attr-defined]  # what the protocol leaves open is the recipe's


def test_ademvl_distorts_the_pictures_of_its_captions(tmp_path: Path) -> None:
    [cell] = planned(tmp_path, "--protocol", "paper-ademvl", "--methods", "ademvl", "--task", "coco_caption").cells
    assert cell.task.augment == "crop-flip-rand"  # type: ignore[attr-defined]


def test_mwa_crops_its_training_pictures_and_searches_captions_with_beams(tmp_path: Path) -> None:
    made = planned(tmp_path, "--protocol", "paper-mwa", "--methods", "mwa", "--task", "coco_caption,retrieval")
    caption, retrieval = (cell.task for cell in made.cells)
    assert retrieval.augment == "crop-flip"  # type: ignore[attr-defined]
    assert (caption.beams, caption.length_penalty) == (3, 0.6)  # type: ignore[attr-defined]


def test_uniform_is_the_default_and_said_in_the_plan(tmp_path: Path) -> None:
    made = planned(tmp_path)
    assert made.protocol == "uniform"
    assert {cell.task.image_norm for cell in made.cells} == {"backbone"}  # type: ignore[attr-defined]
    assert made.cells[0].train.lr == planned(tmp_path, "--protocol", "uniform").cells[0].train.lr


def test_an_unknown_protocol_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown protocol 'paper-adem'; did you mean 'paper-ademvl'"):
        planned(tmp_path, "--protocol", "paper-adem")


@pytest.mark.parametrize("text", ["[train]\nlr = 1e-3\n", "[train]\nlr = { value = 1e-3 }\n"])
def test_a_value_without_a_source_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UsageError, match=r"mine.toml: train.lr"):
        recipes.protocol("mine", tmp_path)


def test_methods_of_a_recipe_differ_in_the_learning_rate_only(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("[train]\nsteps = 3\n[train.methods.memvp]\nlr = 0.5\n")
    recipe = recipes.load("own", tmp_path)
    assert recipe.train_of("memvp", "scienceqa") == {"steps": 3, "lr": 0.5}
    assert recipe.train_of("ademvl", "scienceqa") == {"steps": 3}
    (tmp_path / "own.toml").write_text("[train.methods.memvp]\nsteps = 5\n")
    with pytest.raises(UsageError, match=r"unknown key train.methods.memvp.steps"):
        recipes.load("own", tmp_path)


def test_what_a_protocol_says_for_all_ends_the_recipes_exceptions(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("[train]\nsteps = 3\n[train.methods.memvp]\nlr = 0.5\n")
    (tmp_path / "all.toml").write_text('[train]\nlr = { value = 0.1, source = "a paper" }\n')
    both = recipes.load("own", tmp_path).under(recipes.protocol("all", tmp_path))
    assert both.train_of("memvp", "scienceqa") == {"steps": 3, "lr": 0.1}
