"""The nodes of a Ray cluster: what each cell is given of one, and whether they all have the driver's code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.cluster import node
from harness.cluster.options import Options
from harness.settings import UsageError

LOOK_S = 120.0
"""How long a node may take to start a process and tell what code it has."""


@dataclass(frozen=True)
class Node:
    """A node that is alive, with all that it has, used or not."""

    id: str
    address: str
    cpus: int
    gpus: int
    memory_bytes: int


@dataclass(frozen=True)
class Share:
    """What each cell is given of its node."""

    cpus: int
    gpus: int
    memory_bytes: int | None

    def fits(self, node: Node) -> bool:
        """Whether the node has that much when nothing else runs there."""
        return node.cpus >= self.cpus and node.gpus >= self.gpus and node.memory_bytes >= (self.memory_bytes or 0)

    def as_options(self) -> dict[str, Any]:
        """For `ray.remote`."""
        memory = {} if self.memory_bytes is None else {"memory": self.memory_bytes}
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, **memory}

    def __str__(self) -> str:
        parts = [f"{self.cpus} core{'s' if self.cpus > 1 else ''}", *(["1 GPU"] if self.gpus else [])]
        return ", ".join([*parts, *([f"{self.memory_bytes / 2**30:g} GiB"] if self.memory_bytes else [])])


def nodes() -> list[Node]:
    """The nodes of the cluster that are alive."""
    found = []
    for each in ray.nodes():
        if each["Alive"]:
            has = each["Resources"]
            amounts = (int(has.get(name, 0)) for name in ("CPU", "GPU", "memory"))
            found.append(Node(each["NodeID"], each["NodeManagerAddress"], *amounts))
    return sorted(found, key=lambda node: (node.address, node.id))


def share(options: Options, device: str, found: Sequence[Node]) -> Share:
    """What each cell is given: a GPU where the plan's device is one, and as many cores everywhere.

    Cores are, unless asked for, those of the smallest node, or of a GPU's part of the node with fewest cores for each:
    a cell then runs anywhere, with as many threads as every other.

    Raises:
        UsageError: no node has that much.
    """
    gpus = int(device != "cpu")
    usable = [each for each in found if each.cpus and each.gpus >= gpus]
    smallest = min((each.cpus // max(1, each.gpus * gpus) for each in usable), default=1)
    asked = Share(options.cpus or max(1, smallest), gpus, options.memory_bytes)
    if not any(map(asked.fits, found)):
        there = ", ".join(f"{each.address}: {each.cpus} cores, {each.gpus} GPUs" for each in found)
        raise UsageError(f"--executor ray: no node has {asked} for a cell ({there})")
    return asked


def check_code(found: Sequence[Node]) -> None:
    """Ask every node for its code before any cell is lost to one that is not up to date.

    Raises:
        UsageError: a node does not have vltune, or another version of it.
    """
    ask = ray.remote(num_cpus=0, max_retries=0)(node.sources)
    asked = [
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(each.id, soft=False)).remote() for each in found
    ]
    ours = node.sources()
    for each, answer in zip(found, asked, strict=True):
        try:
            theirs = ray.get(answer, timeout=LOOK_S)
        except RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UsageError(f"--executor ray: node {each.address} cannot run vltune ({reason})") from None
        if differing := [name for name in ours if theirs[name] != ours[name]]:
            raise UsageError(
                f"--executor ray: node {each.address} has other code than this machine ({', '.join(differing)}); "
                "install the same version on every node"
            )
