"""Where the outputs of the authors' code lie: beside the checkout, never in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("VLTUNE_SHARED", Path(__file__).parents[2] / "shared"))
GOLDEN = SHARED / "golden"
NEEDS_GOLDEN = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason=f"no golden vectors at {GOLDEN}; set VLTUNE_SHARED to their parent folder"
)


def skip_without_golden() -> None:
    """Leave a whole module out, whose cases are read from the golden vectors."""
    if not GOLDEN.is_dir():
        pytest.skip(f"no golden vectors at {GOLDEN}; set VLTUNE_SHARED", allow_module_level=True)
