"""Published figures from the text of a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.tables.published import PublishedTable, read


@pytest.fixture
def read_text(tmp_path: Path) -> Callable[[str], PublishedTable]:
    """Reads the text of one file."""

    def one(text: str) -> PublishedTable:
        (tmp_path / "x.json").write_text(text, encoding="utf-8")
        [table] = read(tmp_path)
        return table

    return one
