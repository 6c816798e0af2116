"""The flags of `--executor ray`: what goes with them, what does not, and the device that the nodes are to have."""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import dataclass

from harness import machine
from harness.parallel.launch import Launch
from harness.settings import UsageError

_ALONE = ("ray_address", "cpus_per_cell", "memory_per_cell")


@dataclass(frozen=True)
class Options:
    """Where the cluster is, and what of a node each cell is given.

    Attributes:
        address: HOST:PORT of the head; None for the cluster that runs on this machine.
        cpus: cores, and so threads; None for an equal share of the smallest node.
        memory_bytes: that a node must have left; None for no such demand.
    """

    address: str | None
    cpus: int | None
    memory_bytes: int | None


def options(args: argparse.Namespace) -> Options | None:
    """What the command line says; None for the local executor.

    Raises:
        UsageError: a flag that means nothing without Ray, or cannot be had with it; or Ray is not installed.
    """
    if args.executor != "ray":
        for name in _ALONE:
            if getattr(args, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')}: goes with --executor ray; add it or drop this")
        return None
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--executor ray needs Ray, which is not installed: pip install 'vltune[cluster]'")
    refused = {
        "--gpus and --workers": (args.gpus or args.workers, "Ray hands out the GPUs and cores of its nodes"),
        "--tune": (args.tune, "settings are chosen on one machine; tune there, then give the values with --set"),
        "--no-isolate": (args.isolate is False, "each cell has a process of its own on its node"),
    }
    for flag, (given, reason) in refused.items():
        if given:
            raise UsageError(f"{flag}: {reason}; drop it or --executor ray")
    if args.device not in (None, "auto", "cpu", "cuda:0"):
        raise UsageError(f"--device {args.device}: with Ray each cell has the GPU that it is given, as cuda:0")
    if args.ray_address is not None and "://" in args.ray_address:
        raise UsageError(f"--ray-address {args.ray_address}: write HOST:PORT, and run this on a machine of the cluster")
    memory = None if args.memory_per_cell is None else int(args.memory_per_cell * 2**30)
    return Options(args.ray_address, args.cpus_per_cell, memory)


def device(args: argparse.Namespace, launch: Launch) -> str:
    """Where cells run; with Ray that is not here, so a GPU that is asked for need not be here either.

    Raises:
        UsageError: as `options`, or there is no such device.
    """
    if options(args) is not None and args.device == "cuda:0":
        return "cuda:0"
    return machine.resolve_device(args.device or "auto", launch)
