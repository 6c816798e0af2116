"""How much of what the device can do at best a training step uses: model FLOPs over the rate of a matrix product."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence

import torch

from harness.backbones import Precision
from harness.backbones.clip_llama import DTYPES
from harness.bench import ceiling
from harness.one_line import named
from harness.record import Meter, Scalar, scalar, unavailable


def utilisation(
    flops_per_sample: Meter,
    step_ms: Sequence[float],
    *,
    samples_per_step: float,
    device: torch.device,
    precision: Precision,
) -> Meter:
    """Per cent of the device's rate in the median training step.

    Args:
        flops_per_sample: counted FLOPs of a sample's forward and backward.
        step_ms: milliseconds of each optimiser step, without loading.
        samples_per_step: examples of one optimiser step.
        device: whose rate is measured, once per process.
        precision: of the matrix product that it is measured with.
    """
    if not isinstance(flops_per_sample, Scalar):
        return unavailable("needs train_flops_per_sample, which could not be counted")
    rate = flops_per_sample.value * samples_per_step / (statistics.median(step_ms) / 1e3)
    try:
        best = _best_flops_per_s(device, DTYPES[precision])
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not cost a finished run its record
        said = named(error)
        return unavailable(f"the device's rate could not be measured: {said}")
    return scalar(100 * rate / best, "%")


@functools.cache
def _best_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    return ceiling.measure(device, dtype).matmul_flops_per_s
