"""The driver's side of a Ray cluster: to join it, to see what it has, and to leave it."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator

import ray

from harness.cluster import resources
from harness.cluster.options import Options
from harness.cluster.resources import Share
from harness.resume.stop import handlers_kept
from harness.settings import UsageError

KNOCK_S = 10.0


@contextlib.contextmanager
def joined(options: Options, device: str) -> Iterator[Share]:
    """Join the cluster until the end of the block; gives what each cell may have of a node.

    Raises:
        UsageError: there is no such cluster, or no node of it is fit for a cell.
    """
    where = f"at {options.address}" if options.address else "on this machine; name it with --ray-address HOST:PORT"
    try:
        if options.address:
            _knock(options.address)
        with handlers_kept():  # Ray takes SIGTERM, and would end the process with another exit code
            ray.init(address=options.address or "auto", log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"--executor ray: no Ray cluster {where}, or start one with 'ray start' ({reason})") from None
    try:
        found = resources.nodes()
        share = resources.share(options, device, found)
        resources.check_code([each for each in found if share.fits(each)])
        yield share
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Fail at once where nobody listens; Ray itself would try for minutes.

    Raises:
        OSError, ValueError: it is no HOST:PORT, or nobody answers there.
    """
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
