"""`run --plan FILE`: what a file stands for, what the command line changes of it, and what is wrong with one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from harness import cli, plan, plan_file
from harness.settings import UsageError
from harness.store import Store
from tasks.mini import pairs as mini_pairs
from tasks.mini import scienceqa as mini_scienceqa

PLANS = sorted((Path(__file__).parents[2] / "results" / "plans").glob("*.toml"))
HEAD = 'title = "a study"\ndata = "of nothing"\nhardware = "two cores"\nhours = 0.5\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "my plan.toml"
    path.write_text(HEAD + text, encoding="utf-8")
    return path


def commands(path: Path, *beside: str) -> list[tuple[str, ...]]:
    return [args.argv for args in arguments(path, *beside)]


def arguments(path: Path, *beside: str) -> list[Any]:
    return plan_file.arguments(plan_file.read(path), ("run", "--plan", str(path), *beside), cli.parse)


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_the_shipped_plans_can_be_planned(path: Path, tmp_path: Path) -> None:
    where = ("--results", str(tmp_path / "results"), "--data-root", str(tmp_path))
    for args in arguments(path, *where):
        assert plan.build(args).cells


def test_lists_are_comma_lists_or_one_command_each(tmp_path: Path) -> None:
    text = '[[runs]]\nmethods = ["ademvl", "memvp"]\ntask = "scienceqa"\nseeds = [0, 1]\nsteps = [2, 3]\nbatch_size = 4'
    fixed = ("run", "--methods=ademvl,memvp", "--task=scienceqa", "--seeds=0,1")
    expected = [(*fixed, "--steps=2", "--batch-size=4"), (*fixed, "--steps=3", "--batch-size=4")]
    assert commands(write(tmp_path, text)) == expected


def test_what_is_shared_holds_unless_a_run_says_otherwise(tmp_path: Path) -> None:
    text = (
        '[shared]\nmethods = "all"\nepochs = 2\nsave = true\nset = { "train.lr" = 0.1, "train.warmup" = 0 }\n'
        '[[runs]]\ntask = "retrieval"\nsteps = 5\nset = { "train.lr" = 0.2 }\n'
        '[[runs]]\ntask = "scienceqa"\nsave = false\n'
    )
    first, second = commands(write(tmp_path, text))
    assert first == (
        *("run", "--methods=all", "--save", "--set=train.lr=0.2", "--set=train.warmup=0"),
        *("--task=retrieval", "--steps=5"),
    )
    assert "--save" not in second
    assert "--epochs=2" in second


@pytest.mark.parametrize("beside", [("--steps", "7"), ("--steps=7",), ("--set", "train.lr=3", "--seeds", "4")])
def test_the_command_line_stands_over_the_plan(beside: tuple[str, ...], tmp_path: Path) -> None:
    text = '[[runs]]\nmethods = "memvp"\ntask = "scienceqa"\nepochs = 2\nset = { "train.lr" = 0.1, "train.warmup" = 0 }'
    [args] = arguments(write(tmp_path, text), *beside)
    planned = cli.parse(args.argv)
    assert "--plan" not in " ".join(args.argv)
    if "--set" in beside:
        assert (planned.epochs, planned.seeds, planned.set) == (2, (4,), ["train.warmup=0", "train.lr=3"])
    else:
        assert (planned.epochs, planned.steps, len(planned.set)) == (None, 7, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "runs must be at least one"),
        ("[[runs]]\nmethods = 'all'", "--task is missing"),
        ("[[runs]]\ntask = 'scienceqa'\nmethod = 'all'", "unknown key method; did you mean 'methods'"),
        ("[[runs]]\ntask = 'scienceqa'\nmethods = 'all'\nsteps = 0.5", "command 1 of the plan: .*--steps"),
        ("[[runs]]\ntask = 'scienceqa'\nmethods = 'all'\nsteps = true", "runs 1: steps must be a text, a number"),
        ("[[runs]]\ntask = 'scienceqa'\nmethods = 'all'\nsave = 1", "save must be true or false"),
        ("[[runs]]\ntask = 'scienceqa'\nmethods = 'adem'", "unknown method 'adem'; did you mean 'ademvl'"),
        ("[[runs]]\nset = 3", "set must be a table"),
        ("[shared]\nx = 1\n[[runs]]\ntask='scienceqa'", "unknown key x"),
        ("shared = 3\n[[runs]]\ntask='scienceqa'", "shared must be a table"),
        (
            "[[runs]]\nmethods = 'all'\ntask = 'scienceqa'\nbatch_size = []",
            "batch_size is an empty list; name something",
        ),
        ("[[runs]\n", "line 5"),
        ("[[runs]]\nsteps = " + "[" * 300 + "]" * 300, "lists or objects within more than"),
        (
            "[[runs]]\n" + "".join(f"{key} = [{'1,' * 40}]\n" for key in ("steps", "batch_size")),
            "more than 1,000 commands",
        ),
    ],
)
def test_a_mistake_is_one_line(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, text)
    assert cli.main(["run", "--plan", str(path), "--results", str(tmp_path / "results")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("vltune: error: ")
    assert said.count("\n") == 1
    assert re.search(message, said), said


@pytest.mark.parametrize("lacking", ["title", "data", "hardware", "hours"])
def test_a_plan_says_what_it_takes(lacking: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    lines = [line for line in HEAD.splitlines() if not line.startswith(lacking)]
    path.write_text("\n".join([*lines, "[[runs]]", "methods = 'all'"]), encoding="utf-8")
    with pytest.raises(UsageError, match=f"{lacking} must be a"):
        plan_file.read(path)


def test_isolation_can_be_switched_off_for_one_run(tmp_path: Path) -> None:
    text = '[shared]\nmethods = "all"\ntask = "scienceqa"\nisolate = true\n[[runs]]\n[[runs]]\nisolate = false\n'
    assert [args.isolate for args in arguments(write(tmp_path, text))] == [True, False]


def test_a_number_as_a_text_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(HEAD.replace("hours = 0.5", 'hours = "1"'), encoding="utf-8")
    with pytest.raises(UsageError, match="hours must be a number, got '1'"):
        plan_file.read(path)


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--plan", str(tmp_path / "none.toml")]) == 2
    assert capsys.readouterr().err == f"vltune: error: --plan {tmp_path / 'none.toml'}: No such file or directory; " + (
        "name a plan file\n"
    )


def test_all_commands_are_run_and_each_record_holds_its_own(
    tiny_folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llm, vision = map(str, tiny_folders)
    mini_scienceqa.write(tmp_path / "data", train=8, val=4, test=4)
    text = (
        '[shared]\ntask = "scienceqa"\nsteps = 1\n'
        '[[runs]]\nmethods = "frozen"\n[[runs]]\nmethods = "llava"\nbatch_size = [2, 4]\n'
    )
    beside = ("--llm", llm, "--vision", vision, "--data-root", str(tmp_path / "data"), "--device", "cpu")
    results = ("--results", str(tmp_path / "my results"))
    assert cli.main(["run", "--plan", str(write(tmp_path, text)), *beside, *results]) == 0
    out = capsys.readouterr().out
    assert "a study\ndata: of nothing\nhardware: two cores, 0.5 hours" in out
    assert "command 3 of 3" in out
    records = Store(tmp_path / "my results").read()
    assert [record.cell.method for record in records] == ["frozen", "llava", "llava"]
    assert [record.cell.options["train"]["batch_size"] for record in records[1:]] == [2, 4]
    assert records[2].provenance["argv"][:3] == ["run", "--task=scienceqa", "--steps=1"]
    assert cli.main(list(records[2].provenance["argv"])) == 0  # it is there already
    assert len(Store(tmp_path / "my results").read()) == 3


@pytest.mark.parametrize("name", ["cost-7b", "cost-13b"])
def test_costs_can_be_measured_at_reduced_shapes(name: str, tiny_folders: tuple[Path, Path], tmp_path: Path) -> None:
    llm, vision = map(str, tiny_folders)
    path = next(path for path in PLANS if path.stem == name)
    mini_scienceqa.write(tmp_path / "data", train=8, val=4, test=4)
    where = ("--llm", llm, "--vision", vision, "--device", "cpu", "--results", str(tmp_path / "results"))
    where += ("--data-root", str(tmp_path / "data"))
    small = ("--steps", "1", "--batch-size", "2", "--eval-limit", "2", "--train-limit", "4", "--precision", "fp32")
    fitted = ("--set", "ademvl.scales=16+4", "--set", "memvp.slots=16")
    chosen = ("--methods", "ademvl,memvp,mwa,lora,llava", "--text-tokens", "40")
    assert cli.main(["run", "--plan", str(path), *where, *small, *fitted, *chosen]) == 0
    records = Store(tmp_path / "results").read()
    assert len(records) == 5
    for record in records:
        assert record.cell.options["run"]["text_tokens"] == 40
        for meter in ("train_step_ms", "prefill_ms", "decode_ms_per_token", "train_flops_per_sample"):
            assert getattr(record.meters[meter], "reason", None) is None


@pytest.mark.parametrize(
    ("backbone", "methods", "task", "tokens", "said"),
    [
        ("beit3-base", "mwa", "retrieval", "128", "--text-tokens 128: beit3-base has room for 64 tokens of text"),
        ("beit3-base", "mwa", "retrieval", "1", "--text-tokens 1: a text of beit3-base begins with <s> and ends with"),
    ],
)
def test_exact_texts_that_do_not_fit_are_refused(
    backbone: str, methods: str, task: str, tokens: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mini_pairs.write(tmp_path / "data", train=8, val=2, test=12)
    words = ["run", "--methods", methods, "--task", task, "--backbone", backbone, "--weights", "random", "--isolate"]
    where = ["--data-root", str(tmp_path / "data"), "--results", str(tmp_path / "results"), "--device", "cpu"]
    assert cli.main([*words, *where, "--text-tokens", tokens]) == 2
    assert said in capsys.readouterr().err


def test_exact_texts_need_random_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--methods", "frozen", "--task", "scienceqa", "--text-tokens", "9", "--results", str(tmp_path)]
    assert cli.main(words) == 2
    assert "add --weights random" in capsys.readouterr().err
