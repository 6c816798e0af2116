"""Learning curves: few points, a stated running mean, the same in words, and why a run has none."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from harness.record import NamedFile, Record, unavailable
from harness.report.curves import POINTS, curve, read, summary
from harness.report.page import page
from harness.store import Store
from tests.harness.report.records import fill, make, readings


def saved(root: Path, **samples: list[float]) -> tuple[Store, Record]:
    store = Store(root)
    store.append(make(1), None, samples=samples)
    [record] = store.read()
    return store, record


@pytest.mark.parametrize("steps", [1, 2, 39, 299, 300, 301, 598, 599, 600, 12_345])
def test_a_curve_has_few_points_with_the_first_and_the_last(steps: int) -> None:
    losses = [float(step) for step in range(steps)]
    found = curve(losses)
    places = [min(index * found.every, steps - 1) for index in range(len(found.raw))]
    assert len(found.raw) == len(found.smooth) <= POINTS
    assert found.raw == pytest.approx([losses[place] for place in places], rel=1e-3)
    assert (places[0], places[-1]) == (0, steps - 1)
    assert len(set(places)) == len(places)


def test_short_curves_lose_nothing() -> None:
    losses = [random.Random(0).random() for _ in range(POINTS)]
    found = curve(losses)
    assert (found.every, found.steps) == (1, POINTS)
    assert found.raw == pytest.approx(losses, rel=1e-3)


def test_the_running_mean_is_centred_and_shorter_at_the_ends() -> None:
    losses = [float(step % 2) for step in range(80)]
    found = curve(losses)
    assert (found.window, found.every) == (5, 1)
    # By hand: 0 1 0 at the start, then 0 1 0 1 0 and 1 0 1 0 1.
    assert found.smooth[0] == pytest.approx(1 / 3, abs=1e-4)
    assert found.smooth[2:4] == pytest.approx([2 / 5, 3 / 5])
    assert found.smooth[-1] == pytest.approx(2 / 3, abs=1e-4)


def test_a_curve_in_words() -> None:
    assert summary(curve([2.5])) == "Loss 2.5 in the only step."
    assert summary(curve([2.0, 0.5, 1.0])) == (
        "Loss 2 at the start, 1 at the end of 3 steps; lowest 0.5 around step 2."
    )


def test_the_table_has_the_first_seed_of_each_row_and_rows_of_one_method_differ_in_dashes(tmp_path: Path) -> None:
    store, rng = Store(tmp_path), random.Random(0)
    for number, (slots, seed) in enumerate([(40, 1), (80, 0), (80, 1)]):
        store.append(make(number, seed=seed, settings={"slots": slots}), None, samples=readings(rng))
    store.append(make(9, method="frozen"), None)
    [section] = page(store.read(), store, []).sections
    assert sorted(line["run"] for line in section.learning.lines) == ["2026-00000000", "2026-00000001"]
    assert [line["dash"] for line in section.learning.lines] == [0, 1]
    assert [key.dash for key in section.learning.legend] == ["", "dashed"]
    assert len({line["look"] for line in section.learning.lines}) == 1
    assert section.learning.missing.startswith("frozen: no loss of each step was saved")


def test_every_run_has_a_curve_or_a_reason(tmp_path: Path) -> None:
    records = fill(tmp_path, methods=["a", "frozen"], seeds=(0, 1), steps=50)
    found = page(records, Store(tmp_path), [])
    assert set(found.curves) == set(found.runs)
    assert all("running mean over 3 steps" in run["learning"]["summary"] for run in found.runs.values())


def test_reasons_are_said(tmp_path: Path) -> None:
    store, record = saved(tmp_path, train_loss=[1.0, 0.5])

    def why(changed: Record, where: Store | None = store) -> str:
        found, missing = read([changed], where)
        assert not found
        return missing[changed.run_id]

    assert why(record, None) == "the report was made without the results folder"
    assert why(make(2, status="failed", reason="boom")) == "the run was failed"
    assert why(make(2)) == "no loss of each step was saved: the record is older (run again with --fresh)"
    meters = {**record.meters, "train_step_ms": unavailable("not trained")}
    assert why(record.model_copy(update={"meters": meters})) == "not trained"
    assert record.samples is not None
    beside = store.folder(record) / record.samples.file
    beside.write_bytes(beside.read_bytes()[:-3])
    assert why(record).startswith("2026-00000001.samples.jsonl: not the file that its record names")
    beside.unlink()
    assert why(record).startswith("2026-00000001.samples.jsonl: cannot be read")


@pytest.mark.parametrize(
    "content",
    [
        '{"name": "train_loss", "values": ["<b>"]}',
        '{"name": "train_loss", "values": [1e300]}',
        '{"name": "train_loss", "values": [NaN]}',
        '{"name": "train_loss", "values": {"1": 2}}',
        '{"name": "train_loss", "values": []}',
        '{"name": "prefill_ms", "values": [1.0]}',
        '{"values": [1.0]}',
        "[1]",
    ],
)
def test_readings_that_no_run_writes_are_a_reason(tmp_path: Path, content: str) -> None:
    store, record = saved(tmp_path, train_loss=[1.0])
    assert record.samples is not None
    (store.folder(record) / record.samples.file).write_text(content, encoding="utf-8")
    named = NamedFile(file=record.samples.file, sha256=hashlib.sha256(content.encode()).hexdigest())
    found, missing = read([record.model_copy(update={"samples": named})], store)
    assert not found
    assert missing[record.run_id].startswith((f"{named.file} ", f"{named.file}: "))


def test_a_run_without_losses_but_with_other_readings_has_none(tmp_path: Path) -> None:
    store, record = saved(tmp_path, infer_ms_per_sample=[1.0, 2.0])
    assert read([record], store)[1][record.run_id].endswith("has no loss of each step")
