"""Which values a plan holds: the paper's, then the recipe's, then the command line's; which cells, in which order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import methods
from harness import cli, machine
from harness.backbones import BackboneError
from harness.plan import Plan, TrainOptions, build, build_methods
from harness.settings import UsageError

Make = Callable[..., Plan]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A plan on the CPU from the flags of `run`."""

    def plan(*flags: str, chosen: str = "ademvl,memvp", task: str = "scienceqa") -> Plan:
        fixed = ("run", "--methods", chosen, "--task", task, "--device", "cpu", "--results", str(tmp_path / "results"))
        args = cli.parser().parse_args([*fixed, *flags])
        args.argv = (*fixed, *flags)
        return build(args)

    return plan


def by_method(plan: Plan) -> dict[str, Any]:
    return {cell.method_name: cell.method for cell in plan.cells}


def test_defaults_are_those_of_the_mini_recipe(make: Make) -> None:
    plan = make()
    assert (plan.backbone.name, plan.recipe, plan.backbone.weights, plan.precision) == (
        "mini",
        "mini",
        "pretrained",
        "fp32",
    )
    assert (plan.device, plan.kernels, plan.data_root, plan.fresh) == ("cpu", "reference", None, False)
    assert plan.argv[:3] == ("run", "--methods", "ademvl,memvp")
    assert [cell.method_name for cell in plan.cells] == ["ademvl", "memvp"]
    assert by_method(plan)["ademvl"].scales == (64, 16)
    assert by_method(plan)["memvp"].slots == 80
    assert all(cell.explicit == {} and cell.seed == 0 and cell.train.steps for cell in plan.cells)


def test_other_backbones_get_the_papers_values(make: Make) -> None:
    plan = make("--backbone", "llama-7b", "--weights", "random")
    assert (plan.recipe, plan.precision) == ("paper", "fp32")
    assert by_method(plan)["ademvl"] == methods.get("ademvl")
    assert plan.cells[0].train == TrainOptions(epochs=20, lr=1.125e-3)


def test_an_image_size_is_for_beit3_and_explicit(make: Make) -> None:
    flags = ("--backbone", "beit3-base", "--weights", "random")
    plan = make(*flags, "--image-size", "384", chosen="mwa", task="retrieval")
    assert plan.backbone.image_size == 384
    assert plan.cells[0].explicit["image_size"] == 384
    assert "image_size" not in make(*flags, chosen="mwa", task="retrieval").cells[0].explicit
    with pytest.raises(BackboneError, match="--image-size is for beit3-base and beit3-large"):
        make("--image-size", "384")


def test_slots_of_the_13b_model(make: Make) -> None:
    plan = make("--backbone", "llama-13b", "--weights", "random")
    assert by_method(plan)["memvp"].slots == 400
    assert plan.cells[0].train.epochs == 20


def test_the_command_line_wins(make: Make) -> None:
    sets = ("ademvl.alpha=0.5", "ademvl.scales=64", "train.lr=1e-4", "scienceqa.answer_by=likelihood")
    plan = make(*(part for item in sets for part in ("--set", item)), "--precision", "bf16", "--eval-limit", "7")
    cell, other = plan.cells
    assert (cell.method.alpha, cell.method.scales, cell.method.beta) == (0.5, (64,), 0.1)  # type: ignore[attr-defined]
    assert cell.task.answer_by == "likelihood"  # type: ignore[attr-defined]
    assert (cell.train.lr, plan.precision, plan.eval_limit) == (1e-4, "bf16", 7)
    shared = {"precision": "bf16", "eval_limit": 7, "train.lr": 1e-4, "scienceqa.answer_by": "likelihood"}
    assert other.explicit == shared
    assert cell.explicit == shared | {"ademvl.alpha": 0.5, "ademvl.scales": (64,)}


def test_a_length_replaces_the_recipes_length(make: Make) -> None:
    assert (make("--epochs", "2").cells[0].train.epochs, make("--epochs", "2").cells[0].train.steps) == (2, None)
    assert make("--set", "train.epochs=3").cells[0].train.steps is None
    assert make("--steps", "5", "--batch-size", "8").cells[0].explicit == {"train.steps": 5, "train.batch_size": 8}


def test_the_rate_follows_the_batch_where_the_recipe_leaves_it_open(make: Make) -> None:
    plan = make("--backbone", "llama-7b", "--weights", "random", "--batch-size", "64")
    assert plan.cells[0].train.lr == pytest.approx(2 * 1.125e-3)


def test_cells_are_ordered_by_task_then_seed_then_method(make: Make) -> None:
    plan = make("--seeds", "2, 0,2", chosen=" memvp, ademvl,,memvp ")
    order = [(cell.task_name, cell.seed, cell.method_name) for cell in plan.cells]
    assert order == [("scienceqa", seed, method) for seed in (2, 0) for method in ("memvp", "ademvl")]


def test_all_is_every_name(make: Make) -> None:
    plan = make(chosen="all", task="all")
    assert set(by_method(plan)) == set(methods.names())


def test_blind_gets_the_settings_of_the_method_it_trains(make: Make) -> None:
    plan = make("--set", "ademvl.alpha=0.25", chosen="blind,ademvl")
    blind, seeing = plan.cells
    assert blind.method.inner() == seeing.method  # type: ignore[attr-defined]
    assert blind.explicit == {"ademvl.alpha": 0.25}


def test_blind_of_another_method(make: Make) -> None:
    flags = ("--set", "blind.of=memvp", "--set", "memvp.dropout=0.2")
    (cell,) = make(*flags, chosen="blind").cells
    assert cell.method.inner() == dataclasses.replace(by_method(make())["memvp"], dropout=0.2)  # type: ignore[attr-defined]
    assert cell.explicit == {"blind.of": "memvp", "memvp.dropout": 0.2}
    with pytest.raises(methods.UnknownName, match="unknown method 'mevp'; did you mean 'memvp'"):
        make("--set", "blind.of=mevp", chosen="blind")


def test_a_pair_is_called_after_its_parts_or_as_the_user_says(make: Make) -> None:
    plan = make("--llm", "a/llama", "--vision", "b/vit")
    spec = plan.backbone
    assert (spec.name, spec.llm, spec.vision, plan.recipe) == ("llama+vit", "a/llama", "b/vit", "paper")
    assert make("--llm", "a/llama", "--vision", "b/vit", "--backbone", "own").backbone.name == "own"


def test_params_needs_no_weights_and_takes_the_recipe() -> None:
    line = ["params", "--methods", "ademvl,memvp", "--backbone", "llama-13b", "--set", "ademvl.cls=false"]
    found = dict(build_methods(cli.parser().parse_args(line)))
    assert found == {"ademvl": methods.get("ademvl", cls=False), "memvp": methods.get("memvp", slots=400)}


def test_train_options_are_checked() -> None:
    for fields, message in (
        ({}, "exactly one of epochs and steps"),
        ({"epochs": 1, "steps": 1}, "exactly one of epochs and steps"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"steps": 1, "lr": 0.0}, "lr must be above 0"),
        ({"steps": 1, "warmup": 1.0}, "warmup must be below 1"),
        ({"steps": 1, "batch_size": 8, "accumulate": 3}, "accumulate must divide"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainOptions(**fields)


def test_precision_and_device_of_a_machine_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert machine.resolve_device("auto") == "cuda:0"
    assert machine.resolve_device("cuda:1") == "cuda:1"
    assert machine.resolve_precision(None, "cuda:1") == "bf16"
    assert machine.resolve_precision("fp16", "cuda:1") == "fp16"
    with pytest.raises(UsageError, match="--device cuda:2: the last one here is cuda:1"):
        machine.resolve_device("cuda:2")


def test_a_shard_holds_every_nth_cell(make: Make) -> None:
    def named(*flags: str) -> list[tuple[str, int]]:
        return [(cell.method_name, cell.seed) for cell in make("--seeds", "0,1", *flags, chosen="lora,memvp,mwa").cells]

    whole = named()
    assert named("--shard", "2/4") == [whole[1], whole[5]]
    assert sorted([*named("--shard", "1/2"), *named("--shard", "2/2")]) == sorted(whole)
    assert named("--shard", "7/7") == []
