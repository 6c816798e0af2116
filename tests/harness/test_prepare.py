"""What is read before any work: only what cells use must be there, and prompts that do not fit are refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import tasks
from harness import backbones, cli, plan, prepare
from harness.plan import Plan
from harness.store import Store
from tasks import DataError
from tasks.mini import scienceqa as mini_scienceqa
from tests.tiny_backbone import write_tiny_backbone


def planned(root: Path, *more: str, methods: str = "frozen", task: str = "retrieval") -> Plan:
    command = ["run", "--methods", methods, "--task", task, "--device", "cpu", "--data-root", str(root), *more]
    args = cli.parser().parse_args([*command, "--results", str(root / "results")])
    args.argv = ()
    return plan.build(args)


def read(made: Plan) -> prepare.TaskData:
    return prepare.task_data(made, made.cells[0].task_name, made.cells[0].task)


def lose_annotations(root: Path) -> None:
    (root / "annotations/captions_train2017.json").unlink()


def lose_pictures(root: Path) -> None:
    shutil.rmtree(root / "train2017")


@pytest.mark.parametrize("lose", [lose_annotations, lose_pictures])
@pytest.mark.parametrize("task", ["coco_caption", "retrieval"])
def test_what_nobody_trains_on_may_be_missing(coco: Path, lose: Callable[[Path], None], task: str) -> None:
    lose(coco)
    on_val = ("--set", f"{task}.split=val")
    data = read(planned(coco, *on_val, task=task))
    assert data.train == []
    assert sum(example.image is not None for example in data.evaluation) == 12
    trained = planned(coco, *on_val, methods="frozen,memvp", task=task)
    with pytest.raises(DataError, match="train"):
        read(trained)
    # A checkpoint that is evaluated as it is (--init M=DIR --steps 0) trains on nothing either.
    as_it_is = dataclasses.replace(trained.cells[1].train, steps=0, epochs=None)
    cells = tuple(dataclasses.replace(cell, train=as_it_is) for cell in trained.cells)
    assert read(dataclasses.replace(trained, cells=cells)).train == []


def test_what_is_evaluated_may_not_be_missing(coco: Path) -> None:
    with pytest.raises(DataError, match=r"no captions_test2017\.json"):
        read(planned(coco))


def test_data_have_one_fingerprint_whoever_trains_on_them(coco: Path) -> None:
    both = [read(planned(coco, "--set", "retrieval.split=val", methods=name)) for name in ("frozen", "memvp")]
    assert both[0] == both[1]
    assert len(both[0].train) == 2


def test_a_run_without_training_needs_no_training_data(coco: Path, tiny_folders: tuple[Path, Path]) -> None:
    lose_annotations(coco)
    llm, vision = map(str, tiny_folders)
    command = ["run", "--methods", "frozen", "--task", "retrieval", "--llm", llm, "--vision", vision]
    command += ["--data-root", str(coco), "--results", str(coco / "results"), "--device", "cpu"]
    assert cli.main([*command, "--set", "retrieval.split=val"]) == 0
    [record] = Store(coco / "results").read()
    assert (record.status, record.metrics["ir_r1"].n) == ("ok", 12)
    assert record.cell.options["data"]["train"] == 0


def test_broken_pictures_of_a_split_that_nobody_trains_on_are_no_matter(
    coco: Path, tiny_folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (coco / "train2017/0.png").write_bytes(b"?")
    llm, vision = map(str, tiny_folders)
    command = ["run", "--task", "retrieval", "--llm", llm, "--vision", vision, "--steps", "1", "--device", "cpu"]
    command += ["--data-root", str(coco), "--results", str(coco / "results"), "--set", "retrieval.split=val"]
    assert cli.main([*command, "--methods", "frozen"]) == 0
    assert cli.main([*command, "--methods", "llava", "--set", "llava.tokens=4"]) == 2
    assert "0.png: picture cannot be decoded" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["coco_caption", "retrieval"])
def test_captions_to_be_ranked_are_cut_as_their_authors_do_and_counted(
    coco: Path, tiny_folders: tuple[Path, Path], task: str
) -> None:
    path = coco / "annotations/captions_val2017.json"
    path.write_text(path.read_text().replace('"picture 9"', f'"{"a long story " * 200}"'))
    llm, vision = map(str, tiny_folders)
    made = planned(coco, "--llm", llm, "--vision", vision, "--set", f"{task}.split=val", task=task)
    [cell] = made.cells
    model = backbones.load(made.backbone, device="cpu", precision="fp32")
    found = prepare.check_lengths(cell, model, read(made))
    # To be captioned is the picture alone.
    assert (found.evaluation, found.first) == ((1, ("9#0",)) if task == "retrieval" else (0, ()))


@pytest.mark.parametrize("name", ["a_plug_in", "of.another-package", "world"])
def test_a_task_of_another_package_has_no_generated_data(tmp_path: Path, name: str) -> None:
    made = dataclasses.replace(planned(tmp_path), data_root=None)
    with pytest.raises(DataError, match=f"{name} has no generated data: give --data-root DIR"):
        prepare.data_root(made, name)


def narrow_backbone(folder: Path, context: int) -> tuple[Path, Path]:
    """The tiny pair with a shorter context; its 16 patches become as many tokens of it."""
    llm, vision = write_tiny_backbone(folder)
    config = json.loads((llm / "config.json").read_text(encoding="utf-8"))
    (llm / "config.json").write_text(json.dumps(config | {"max_position_embeddings": context}), encoding="utf-8")
    return llm, vision


@pytest.mark.parametrize(("context", "room"), [(12, 0), (16, 0), (23, 7), (40, 24)])
def test_prompts_are_not_cut_to_next_to_nothing(
    context: int, room: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llm, vision = narrow_backbone(tmp_path, context)
    mini_scienceqa.write(tmp_path / "data", train=4, val=2, test=12)
    where = ["--llm", str(llm), "--vision", str(vision), "--data-root", str(tmp_path / "data")]
    options = ["--methods", "llava", "--task", "scienceqa", "--steps", "1", "--batch-size", "4", "--device", "cpu"]
    cut = ["--set", "scienceqa.overlong=cut", "--results", str(tmp_path / "results")]
    capsys.readouterr()  # what writing the backbone said
    code = cli.main(["run", *options, *where, *cut])
    err = capsys.readouterr().err
    if room == 24:
        assert code == 0
        return
    assert code == 2
    assert f"beside what llava inserts its context of {context} tokens has room for {room} of text" in err
    assert err.count("\n") == 1


def test_the_longest_choice_must_fit_behind_its_prompt(tiny_folders: tuple[Path, Path], tmp_path: Path) -> None:
    root = tmp_path / "data"
    mini_scienceqa.write(root, train=4, val=2, test=12)
    model = backbones.load(backbones.BackboneSpec("tiny", *map(str, tiny_folders)))
    task = tasks.get("scienceqa", train_format="QCM-T", eval_format="QCM-T")
    examples = task.examples("test", root, limit=None)
    question = examples[0]
    long = dataclasses.replace(question, choices=(*question.choices[1:], "so " * model.room))  # type: ignore[call-arg, attr-defined]
    fits, not_ = (prepare.TaskData(root, [], [found], "") for found in (question, long))
    assert prepare.overlong(model, task, fits).evaluation == 0
    assert prepare.overlong(model, task, not_).evaluation == 1
    letters = dataclasses.replace(long, choices=("so",) * 3)  # type: ignore[call-arg]
    assert prepare.overlong(model, tasks.get("scienceqa"), prepare.TaskData(root, [], [letters], "")).evaluation == 0
