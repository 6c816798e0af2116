"""The cases of `harness bench` for pytest-benchmark: `pytest tests/bench --benchmark-enable` times them, small ones.

Without that switch each runs once, which shows that it runs.
"""

from __future__ import annotations

import functools
import os

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from harness import backbones
from harness.backbones.decoder import DecoderModel
from harness.backbones.decoding import greedy
from harness.bench import memory_read, step
from methods.kernels.memory_read import Form

CPU = torch.device("cpu")
SETTING = step.SETTINGS["reduced"]
NEEDS_TRITON = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs CUDA or the interpreter")
STEPS = [step.NAIVE, "naive, but no gradient into frozen weights, fp32", "fast, fp32", "fast, bf16"]
READS = ["naive", "reference", pytest.param("triton", marks=NEEDS_TRITON)]


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("form", ["adem", "memvp"])
def test_memory_read(form: Form, name: str, benchmark: BenchmarkFixture) -> None:
    given = memory_read.inputs(memory_read.SIZES["reduced"], CPU, torch.float32)
    reads, _ = memory_read.implementations(form, given, reduced=True)
    found = benchmark(memory_read.forward_backward, reads[name], *given)
    assert [tensor.shape for tensor in found] == [tensor.shape for tensor in (given[0], *given[:3])]


@pytest.mark.parametrize("name", STEPS)
def test_training_step(name: str, benchmark: BenchmarkFixture) -> None:
    loss, grads = benchmark(step.training_rivals(SETTING, CPU)[name])
    assert torch.isfinite(loss)
    assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("name", ["one by one, full logits", f"batch of {SETTING.questions}"])
def test_evaluation(name: str, benchmark: BenchmarkFixture) -> None:
    scores = benchmark(step.evaluation_rivals(SETTING, CPU)[name])
    assert [len(row) for row in scores] == [4] * SETTING.questions


def test_greedy_decoding(benchmark: BenchmarkFixture) -> None:
    model = backbones.load(SETTING.spec, device="cpu", precision="fp32")
    assert isinstance(model, DecoderModel)
    step.method_for(model).attach(model, 0)
    batch = step.text_batch(model, 1, SETTING.prompt, labelled=0)
    [tokens] = benchmark(functools.partial(greedy, model, batch, max_new_tokens=4))
    assert 1 <= len(tokens) <= 4
