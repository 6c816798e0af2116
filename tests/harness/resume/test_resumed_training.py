"""A training that was interrupted anywhere ends with the same bits as one that was not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

import methods
import tasks
from harness import backbones
from harness.backbones.decoder import DecoderModel
from harness.plan import TrainOptions
from harness.resume.every import Every
from harness.resume.keeper import Keeper
from harness.train import DivergedError, Step, TrainResult, train, trained_parameters, ways
from tasks.mini import coco_caption as mini_captions
from tasks.mini import retrieval as mini_retrieval
from tasks.mini import scienceqa as mini_scienceqa

STEPS = 9
WRITERS: dict[str, Callable[..., Any]] = {
    "scienceqa": mini_scienceqa.write,
    "coco_caption": mini_captions.write,
    "retrieval": mini_retrieval.write,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where features of pictures are kept, for one test alone."""
    monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    mini_scienceqa.write(tmp_path / "data", seed=0, train=24, val=2, test=2)
    return tmp_path / "data"


class LeftError(Exception):
    """Raised in the middle, as by a process that is killed."""


def keeper(folder: Path, steps: int = 1) -> Keeper:
    # A process that is killed keeps nothing on its way out.
    return Keeper(folder / "cell", {"cell": "c"}, Every(steps=steps), lambda line: None)


def trained(
    folders: tuple[Path, Path],
    data: Path,
    method: str,
    task_name: str,
    keep: Keeper | None,
    *,
    leave_at: int = 0,
    ask_at: int = 0,
    break_at: int = 0,
) -> tuple[TrainResult, dict[str, torch.Tensor], list[Step]]:
    """As a new process does it: the backbone loaded anew."""
    llm, vision = map(str, folders)
    model = backbones.load(backbones.BackboneSpec("tiny", llm, vision))
    assert isinstance(model, DecoderModel)
    task = tasks.get(task_name, **({"augment": "crop-flip"} if task_name == "coco_caption" else {}))
    examples = task.examples("train", data, limit=None)
    task.prepare(examples, image_size=model.image_size)
    attachment = methods.get(method, **({"scales": (16, 4)} if method == "ademvl" else {})).attach(model, 0)
    attachment.keep(model.use_head(lambda: task.head(model), seed=0))
    told: list[Step] = []

    def after(step: Step) -> None:
        told.append(step)
        if step.number == leave_at:
            raise LeftError
        if keep is not None:
            keep.stop.requested = step.number == ask_at
        if step.number == break_at:  # as an update does that is too large
            next(iter(attachment.parameters())).data.fill_(torch.nan)

    options = TrainOptions(steps=STEPS, batch_size=4, lr=1e-2)
    with ways(model, options, examples, name=None if keep is None else keep.features):
        result = train(
            model,
            attachment,
            task,
            examples,
            options,
            accelerator=Accelerator(cpu=True),
            seed=3,
            label="test",
            after_step=after,
            keeper=keep,
        )
    return result, {n: p.detach().clone() for n, p in trained_parameters(model, attachment).items()}, told


@pytest.mark.parametrize(
    ("method", "task_name"),
    [("ademvl", "scienceqa"), ("memvp", "coco_caption"), ("lora", "retrieval"), ("llava", "scienceqa")],
)
def test_a_training_goes_on_bit_by_bit(
    method: str,
    task_name: str,
    tiny_folders: tuple[Path, Path],
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("harness.resume.keeper.MOST_SHARE", 1e9)
    WRITERS[task_name](tmp_path / "data", seed=0, train=24, val=2, test=2)
    whole, weights, steps = trained(tiny_folders, tmp_path / "data", method, task_name, None)
    for leave_at in (2, 7):
        with pytest.raises(LeftError):
            trained(tiny_folders, tmp_path / "data", method, task_name, keeper(tmp_path), leave_at=leave_at)
    again = keeper(tmp_path)
    result, found, told = trained(tiny_folders, tmp_path / "data", method, task_name, again)
    assert again.resumed == [1, 6]
    assert result.losses == whole.losses
    assert told == steps, "the board is told of the steps before"
    assert result.samples == whole.samples
    assert {name for name, tensor in weights.items() if not torch.equal(tensor, found[name])} == set()
    assert result.weights is not None
    # It has ended; a process killed in the evaluation trains no more.
    third = keeper(tmp_path)
    result, found, _ = trained(tiny_folders, tmp_path / "data", method, task_name, third)
    assert third.resumed == [1, 6, STEPS]
    assert all(torch.equal(tensor, found[name]) for name, tensor in weights.items())
    third.forget()
    assert list(cache.glob("features/*")) == []
    assert not third.folder.exists()


def test_the_end_is_kept_though_a_state_was_kept_just_before(
    tiny_folders: tuple[Path, Path], questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = keeper(tmp_path, steps=1)
    # As if the last one had been written this very moment.
    monkeypatch.setattr(Keeper, "worth", lambda self, nbytes, after_s=None: after_s is not None)
    result, _, _ = trained(tiny_folders, questions, "llava", "scienceqa", keep)
    assert result.weights is not None, "answers can be kept"
    found = keeper(tmp_path).latest()
    assert found is not None
    assert (found.step, found.ended) == (STEPS, result.weights)


def test_broken_weights_do_not_take_the_place_of_good_ones(
    tiny_folders: tuple[Path, Path], questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.resume.keeper.MOST_SHARE", 1e9)
    with pytest.raises(DivergedError, match=r"finite number after step 3 of 9; .* the last good state is kept in"):
        trained(tiny_folders, questions, "llava", "scienceqa", keeper(tmp_path), break_at=3)
    found = keeper(tmp_path).latest()
    assert found is not None
    assert found.step == 2


def test_a_request_in_the_last_step_loses_nothing(
    tiny_folders: tuple[Path, Path], questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.resume.keeper.MOST_SHARE", 0.0)  # nothing is worth its time
    keep = keeper(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        trained(tiny_folders, questions, "llava", "scienceqa", keep, ask_at=STEPS)
    again = keeper(tmp_path)
    found = again.latest()
    assert found is not None
    assert found.step == STEPS
    assert found.ended is not None
