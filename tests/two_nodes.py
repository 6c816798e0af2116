"""A real Ray cluster on the loopback interface, for tests: a head that runs no cell, and two nodes of one core.

Each node also says that it has a GPU, so that it can be seen how those are handed out.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait

HEAD, NODES = "127.0.0.2", ("127.0.0.3", "127.0.0.4")
STORE_BYTES = 80 * 2**20


class TwoNodes:
    """The cluster.

    Attributes:
        folder: where its processes, and so the cells on its nodes, put temporary files.
    """

    def __init__(self) -> None:
        # Ray's sockets lie there, whose names may have a hundred characters.
        self.folder = Path(tempfile.mkdtemp(prefix="vltune-ray-", dir="/tmp"))
        self._nodes: dict[str, Any] = {}
        with self._environment():
            from ray.cluster_utils import Cluster

            head = {"num_cpus": 0, "include_dashboard": False, "node_ip_address": HEAD}
            self._cluster = Cluster(initialize_head=True, head_node_args={**head, "object_store_memory": STORE_BYTES})
        self.refill()

    @property
    def address(self) -> str:
        """For `--ray-address`."""
        return str(self._cluster.address)

    def refill(self) -> None:
        """Start the nodes that are not there."""
        with self._environment():
            for host in NODES:
                if host not in self._nodes:
                    self._nodes[host] = self._cluster.add_node(
                        num_cpus=1, num_gpus=1, object_store_memory=STORE_BYTES, node_ip_address=host
                    )

    def kill(self, host: str) -> None:
        """End all processes of a node at once, as a power cut does."""
        self._cluster.remove_node(self._nodes.pop(host), allow_graceful=False)

    def cells(self) -> list[Path]:
        """The temporary folders of cells that run, or were killed."""
        return list(self.folder.glob("vltune-*"))

    def processes(self, word: str = "") -> list[str]:
        """Command lines of processes of this cluster in which the word stands."""
        return [words for words in _command_lines() if str(self.folder) in words and word in words]

    def close(self) -> None:
        """End everything, and see that nothing is left.

        Raises:
            AssertionError: a process is.
        """
        self._cluster.shutdown()
        wait(lambda: not self.processes(), f"of {self.folder} no process is left", longest_s=30)
        shutil.rmtree(self.folder)

    @contextlib.contextmanager
    def _environment(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("RAY_TMPDIR", "TMPDIR"):
                patch.setenv(name, str(self.folder))
            patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
            # By default whatever else the machine does goes before.
            patch.setenv("RAY_worker_niceness", "0")
            yield


def _command_lines() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            yield path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
