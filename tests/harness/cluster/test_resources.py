"""What each cell is given of a node, on clusters of all shapes."""

from __future__ import annotations

import pytest

pytest.importorskip("ray")
from harness.cluster.options import Options
from harness.cluster.resources import Node, Share, share
from harness.settings import UsageError

ANY = Options(None, None, None)


def node(cpus: int, gpus: int = 0, gib: int = 8) -> Node:
    return Node("id", "10.0.0.1", cpus, gpus, gib * 2**30)


@pytest.mark.parametrize(
    ("nodes", "device", "cpus"),
    [
        ([node(2), node(2)], "cpu", 2),
        ([node(64), node(8), node(0)], "cpu", 8),
        ([node(2), node(64, 8), node(32, 2)], "cuda:0", 8),
        ([node(2), node(4, 8)], "cuda:0", 1),
        ([node(16, 1)], "cpu", 16),
    ],
)
def test_a_cell_has_as_many_cores_on_every_node(nodes: list[Node], device: str, cpus: int) -> None:
    assert share(ANY, device, nodes) == Share(cpus, int(device != "cpu"), None)


def test_what_is_asked_for_is_given() -> None:
    asked = share(Options(None, 3, 2**31), "cpu", [node(2), node(4)])
    assert asked.as_options() == {"num_cpus": 3, "num_gpus": 0, "memory": 2**31}
    assert str(asked) == "3 cores, 2 GiB"
    assert [asked.fits(each) for each in (node(2), node(3), node(8, gib=1))] == [False, True, False]
    assert share(ANY, "cuda:0", [node(1, 1)]).as_options() == {"num_cpus": 1, "num_gpus": 1}


@pytest.mark.parametrize(
    ("options", "device", "said"),
    [
        (Options(None, 5, None), "cpu", "no node has 5 cores for a cell (10.0.0.1: 4 cores, 0 GPUs)"),
        (ANY, "cuda:0", "no node has 1 core, 1 GPU for a cell"),
        (Options(None, None, 2**40), "cpu", "no node has 4 cores, 1024 GiB for a cell"),
    ],
)
def test_what_no_node_has_is_refused(options: Options, device: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        share(options, device, [node(4)])
    assert said in str(error.value)
