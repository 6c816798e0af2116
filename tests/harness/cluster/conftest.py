"""The cluster that the tests of this folder share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.two_nodes import TwoNodes
from tests.waiting import wait


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[TwoNodes]:
    """None of its processes is there afterwards."""
    pytest.importorskip("ray")
    cluster = TwoNodes()
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def cluster(shared_cluster: TwoNodes) -> Iterator[TwoNodes]:
    """The cluster with both nodes, and no cell running on it afterwards."""
    shared_cluster.refill()
    yield shared_cluster
    wait(lambda: not shared_cluster.processes("harness.cluster.child"), "no cell runs")
    for left in shared_cluster.cells():  # by what was killed
        shutil.rmtree(left)
