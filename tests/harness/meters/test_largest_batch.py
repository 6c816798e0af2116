"""The largest batch that fits, with a device that says how much that is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tasks
from harness.backbones.decoder import DecoderModel
from harness.meters import largest_batch
from harness.record import Scalar, Unavailable
from tasks.mini import scienceqa as mini_scienceqa


@pytest.mark.parametrize(("room", "largest"), [(1, 1), (7, 4), (8, 8), (10**6, largest_batch.LIMIT)])
def test_batches_double_until_one_does_not_fit(room: int, largest: int) -> None:
    tried: list[int] = []

    def predict(size: int) -> float:
        tried.append(size)
        if size > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 10.0 * size

    best = largest_batch.double(predict)
    assert best == (largest, 10.0 * largest)
    assert tried == [2**power for power in range(len(tried))]
    assert largest_batch.as_meters(best) == {
        "largest_batch": Scalar(value=largest, unit="samples"),
        "infer_ms_per_sample_largest_batch": Scalar(value=10.0, unit="ms"),
    }


def test_not_even_one_fits() -> None:
    def predict(size: int) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    found = largest_batch.as_meters(largest_batch.double(predict))
    assert all(isinstance(meter, Unavailable) and "one sample" in meter.reason for meter in found.values())


def test_other_errors_are_not_taken_for_a_limit() -> None:
    def predict(size: int) -> float:
        raise RuntimeError("shape")

    with pytest.raises(RuntimeError, match="shape"):
        largest_batch.double(predict)


def test_whatever_goes_wrong_costs_a_run_its_meter_only() -> None:
    class Broken:
        device = torch.device("cuda")

    # Whether for want of a GPU or, on one, of a task: the run that has ended keeps its record.
    found = largest_batch.readings(Broken(), None, [])  # type: ignore[arg-type]
    assert list(found) == list(largest_batch.METERS)
    for meter in found.values():
        assert isinstance(meter, Unavailable)
        assert meter.reason.startswith("batches could not be tried: ")


def test_a_cpu_is_not_filled(tiny_model: DecoderModel, tmp_path: Path) -> None:
    mini_scienceqa.write(tmp_path / "data", train=4, val=2, test=4)
    task = tasks.get("scienceqa")
    found = largest_batch.readings(tiny_model, task, task.examples("test", tmp_path / "data", limit=None))
    assert all(isinstance(meter, Unavailable) and "CPU" in meter.reason for meter in found.values())
