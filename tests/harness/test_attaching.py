"""A cell made ready: which of the task's own parameters are trained."""

from __future__ import annotations

import pytest
import torch

import methods
import tasks
from harness.attaching import use_head
from harness.backbones.beit3.model import EncoderModel
from harness.train import trained_parameters
from tests.tiny_beit3 import tiny_beit3

HEADS = {"vision_head.weight", "language_head.weight", "logit_scale"}


def trained_heads(model: EncoderModel, method: methods.Method) -> set[str]:
    attachment = method.attach(model, 0)
    attachment.keep(use_head(model, method, tasks.get("retrieval"), seed=0))
    found = {name.removeprefix("head.") for name in trained_parameters(model, attachment) if name.startswith("head.")}
    attachment.detach()
    assert model.head is None
    return found


@pytest.mark.parametrize(
    ("method", "native"),
    [
        (methods.get("full"), HEADS),
        (methods.get("blind", of="full"), HEADS),
        (methods.get("mwa"), set()),
        (methods.get("blind", of="mwa"), set()),
        (methods.get("lora"), set()),
    ],
    ids=["full", "blind full", "mwa", "blind mwa", "lora"],
)
def test_heads_of_a_checkpoint_are_trained_by_full_fine_tuning_alone(method: methods.Method, native: set[str]) -> None:
    model = tiny_beit3()
    assert trained_heads(model, method) == HEADS  # new ones
    tensors = {name: torch.randn(64, 64) for name in HEADS - {"logit_scale"}}
    model.native_head = tensors | {"logit_scale": torch.tensor(2.5)}
    assert trained_heads(model, method) == native


def test_a_method_that_trains_nothing_trains_no_head() -> None:
    assert trained_heads(tiny_beit3(), methods.get("frozen")) == set()
