"""The kernels of `memory_read` compile for a Hopper GPU, and fit on it (tox run -e interp)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs triton, of the extra gpu")

ROOT = Path(__file__).parents[3]
SHARED_BYTES = 227 * 1024  # of one block of threads on Hopper


@pytest.mark.slow
def test_the_kernels_compile_for_hopper() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.methods.kernels.compile_for_hopper"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"read", "read_backward", "sum_backward"}
    for name, kernel in found.items():
        assert 0 < kernel["shared_bytes"] <= SHARED_BYTES, name
    assert found["read"]["wide_products"] > 0
