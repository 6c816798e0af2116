"""Which implementation of `memory_read` runs where, and what all of them do around the read."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from methods.kernels.memory_read import memory_read
from tests.methods.kernels.memory_read_cases import draw, reads, results

CALL = """
import sys
{before}
import torch
from methods.kernels.memory_read import memory_read
ones = torch.ones(1, 2, 16)
assert memory_read(ones, ones, ones, form="memvp").shape == ones.shape
try:
    memory_read(ones, ones, ones, form="memvp", impl="triton")
except ValueError as error:
    print(error)
"""


def said(before: str, **environment: str) -> str:
    """What a process of its own says to `impl="triton"` on a CPU tensor."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CALL.format(before=before)],
        env=kept | environment,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    ("before", "environment", "advice"),
    [
        ("sys.modules['triton'] = None", {"TRITON_INTERPRET": "1"}, "install"),
        ("", {}, "TRITON_INTERPRET=1|install"),
    ],
)
def test_kernels_that_cannot_run_are_refused_in_one_line(before: str, environment: dict[str, str], advice: str) -> None:
    (line,) = said(before, **environment).splitlines()
    assert re.search(advice, line), line


def test_unknown_implementations_are_refused() -> None:
    inputs, _ = draw((1, 2, 3, 4), torch.float32, form="adem")
    with pytest.raises(ValueError, match="impl must be one of .*'auto', 'reference', 'triton'"):
        memory_read(**inputs, form="adem", impl="cuda")  # type: ignore[arg-type]


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("form", ["adem", "memvp"])
def test_scale_and_residual_stand_around_the_read(form: str, impl: str) -> None:
    inputs, weight = draw((2, 3, 10, 8), torch.float64, form="adem")
    residual = torch.randn(weight.shape, dtype=weight.dtype, generator=torch.Generator().manual_seed(1))
    plain = results(reads(impl, form=form), inputs, weight)
    got = results(reads(impl, form=form, scale=-2.5), inputs | {"residual": residual}, weight)
    expected: dict[str, Any] = {name: -2.5 * tensor for name, tensor in plain.items()}
    expected |= {"out": residual + expected["out"], "grad_residual": weight}
    torch.testing.assert_close(got, expected)
