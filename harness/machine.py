"""What this machine can run: the device, the precision and the kernels behind `auto`."""

from __future__ import annotations

import re
from typing import Literal

from harness.backbones import Precision
from harness.parallel.launch import ALONE, Launch
from harness.settings import UsageError

Kernels = Literal["auto", "reference", "triton"]


def resolve_device(name: str, launch: Launch = ALONE) -> str:
    """`cpu` or `cuda:N` for `auto`, `cpu` or `cuda:N`; of several processes each gets a GPU of its own.

    Raises:
        UsageError: another name, or a device that is not there.
    """
    if name == "cpu":
        return name
    if name != "auto" and not re.fullmatch(r"cuda:\d+", name):
        raise UsageError(f"--device cannot be {name!r}; use auto, cpu or cuda:N")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not launch.alone:
        return launch.device(name, gpus=count)
    if name == "auto":
        return "cuda:0" if count else "cpu"
    if int(name.removeprefix("cuda:")) >= count:
        found = f"the last one here is cuda:{count - 1}" if count else "there is no CUDA device here"
        raise UsageError(f"--device {name}: {found}; use --device auto")
    return name


def resolve_precision(asked: Precision | None, device: str) -> Precision:
    """What was asked for, else bf16 on a GPU and fp32 on a CPU.

    Raises:
        UsageError: fp16 on a CPU.
    """
    if asked == "fp16" and device == "cpu":
        raise UsageError("--precision fp16 needs a GPU; on a CPU use fp32 or bf16")
    return asked or ("fp32" if device == "cpu" else "bf16")


def resolve_kernels(asked: Kernels, device: str) -> Kernels:
    """The implementation that was asked for; `auto` stays `auto` where the fused kernels can run, else the reference.

    Raises:
        UsageError: triton, where it cannot run.
    """
    if asked == "reference":
        return asked
    import torch

    from methods.kernels import memory_read

    reason = memory_read.unavailable(torch.device(device))
    if asked == "triton" and reason is not None:
        raise UsageError(f"--kernels triton: {reason}; or use --kernels auto")
    return asked if reason is None else "reference"
