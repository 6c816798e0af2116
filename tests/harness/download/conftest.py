"""The server of the download tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.download.server import Site


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server of its own for each test; a proxy of the environment is not asked for it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = Site()
    yield site
    site.stop()
