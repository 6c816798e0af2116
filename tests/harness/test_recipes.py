"""Recipe files: the shipped ones fit the code, and mistakes in one name the file and the key."""

from __future__ import annotations

from pathlib import Path

import pytest

import methods
import tasks
from harness import recipes, settings
from harness.plan import TrainOptions
from harness.settings import UsageError

SHIPPED = sorted(path.stem for path in recipes.FOLDER.glob("*.toml"))


def write(folder: Path, **files: str) -> Path:
    for name, text in {"paper": "[train]\nepochs = 20\n", **files}.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_fit_the_code(name: str) -> None:
    recipe = recipes.load(name)
    assert recipe.name == name
    TrainOptions(**settings.read(TrainOptions, recipe.train, where="train."))
    for scope, table in recipe.methods.items():
        cls = methods.load(scope)
        cls(**settings.read(cls, table, where=f"{scope}."))
    for scope, table in recipe.tasks.items():
        option_class = tasks.load(scope)
        option_class(**settings.read(option_class, table, where=f"{scope}."))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_begin_with_where_values_come_from(name: str) -> None:
    assert (recipes.FOLDER / f"{name}.toml").read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("backbone", ["llama-7b", "some/llama+some/vit", "../mini"])
def test_other_backbones_take_the_papers_recipe(backbone: str) -> None:
    assert recipes.load(backbone).name == "paper"


@pytest.mark.parametrize(
    ("backbone", "full", "others"),
    [("llama-7b", 2e-5, None), ("llama-13b", 2e-5, None), ("beit3-base", 2e-4, 2e-4), ("beit3-large", 5e-5, 2e-4)],
)
def test_training_of_whole_models_has_published_rates(backbone: str, full: float, others: float | None) -> None:
    recipe = recipes.load(backbone)
    rates = {name: recipe.train_of(name, "retrieval").get("lr") for name in ("full", "mwa", "lora", "ademvl")}
    assert rates == {"full": full, "mwa": others, "lora": others, "ademvl": others}
    assert recipe.train_of("full", "retrieval")["batch_size"] == 32


def test_a_base_is_completed_key_by_key(tmp_path: Path) -> None:
    base = '[run]\nprecision = "bf16"\n[train]\nepochs = 3\nlr = 0.1\n[methods.a]\nx = 1\ny = 2\n[methods.b]\nz = 3\n'
    own = 'base = "big"\n[train]\nsteps = 5\n[methods.a]\ny = 4\n[tasks.t]\nw = 1\n'
    recipe = recipes.load("small", write(tmp_path, big=base, small=own))
    assert recipe.precision == "bf16"
    assert recipe.train == {"steps": 5, "lr": 0.1}
    assert recipe.methods == {"a": {"x": 1, "y": 4}, "b": {"z": 3}}
    assert recipe.tasks == {"t": {"w": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train\n", r"x\.toml: .*line 1"),
        ("[trian]\n", r"x\.toml: unknown key trian; did you mean 'train'\?"),
        ("[run]\nprecison = 'fp32'\n", r"x\.toml: unknown key run\.precison; did you mean 'precision'\?"),
        ("[run]\nprecision = 'fp8'\n", r"x\.toml: run\.precision cannot be 'fp8'; known: fp32, bf16, fp16"),
        ("train = 3\n", r"x\.toml: train must be a table, got 3"),
        ("[methods]\nademvl = 3\n", r"x\.toml: methods\.ademvl must be a table, got 3"),
        ("base = 'nowhere'\n", r"x\.toml: base must name another recipe .* got 'nowhere'"),
        ("base = 'x'\n", r"x\.toml: base must name another recipe that has no base itself"),
    ],
)
def test_mistakes_name_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipes.load("x", write(tmp_path, x=text))
