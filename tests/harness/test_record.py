"""Records: complete, strict, exact JSON shape, and one clear line for what cannot be read."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from harness import record as records
from harness.record import METERS, Cell, MetricValue, Record, RecordError, cell_key, new_run_id

CELL = Cell(
    method="memvp",
    task="scienceqa",
    backbone="mini",
    seed=0,
    options={"method": {"slots": 80}, "run": {"train_limit": None}},
    explicit={"method": {"slots": 80}},
)


def full_meters() -> dict[str, Any]:
    meters: dict[str, Any] = {name: records.unavailable("no sensor") for name in METERS}
    meters["trainable_params"] = records.scalar(4_530_432, "params")
    meters["train_step_ms"] = records.distribution([1.0, 2.0, 3.0], "ms")
    return meters


def make(**changes: Any) -> Record:
    fields: dict[str, Any] = {
        "run_id": "20260102T030405678Z-ab12cd34-0f0f0f",
        "status": "ok",
        "cell": CELL,
        "metrics": {"accuracy": MetricValue(value=93.07, unit="%", goal="max", n=4241, ci95=(92.3, 93.8))},
        "meters": full_meters(),
        "provenance": {"python": "3.11"},
    }
    return Record(**{**fields, **changes})


def written(folder: Path, text: str) -> Path:
    path = folder / "run.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_record_survives_the_way_to_a_file_and_back(tmp_path: Path) -> None:
    record = make()
    assert records.load(written(tmp_path, record.to_json())) == record


def test_the_json_has_the_public_shape() -> None:
    data = json.loads(make().to_json())
    assert list(data) == [
        "schema",
        "run_id",
        "status",
        "reason",
        "cell",
        "metrics",
        "meters",
        "predictions",
        "provenance",
        "sha256",
    ]
    assert data["schema"] == 1
    assert data["metrics"]["accuracy"] == {"value": 93.07, "unit": "%", "goal": "max", "n": 4241, "ci95": [92.3, 93.8]}
    assert list(data["meters"]) == list(METERS)
    assert data["meters"]["trainable_params"] == {"value": 4530432, "unit": "params"}
    assert data["meters"]["train_step_ms"] == {"median": 2.0, "p20": 1.4, "p80": 2.6, "n": 3, "unit": "ms"}
    assert data["meters"]["energy_joules"] == {"value": None, "reason": "no sensor"}


def test_a_record_is_sealed_with_the_hash_of_the_rest_of_its_text(tmp_path: Path) -> None:
    text = make().to_json()
    rest, _, seal = text.rpartition(',\n  "sha256": ')
    assert json.loads(text)["sha256"] == hashlib.sha256(f"{rest}\n}}\n".encode()).hexdigest()
    for edited in (text.replace("93.07", "99.07"), text.replace(seal[1:9], "0" * 8), json.dumps(json.loads(text))):
        with pytest.raises(RecordError, match=r"run\.json: edited since it was written: its sha256 is not that of"):
            records.load(written(tmp_path, edited))
    windows = written(tmp_path, text.replace("\n", "\r\n"))
    assert records.load(windows) == records.load(written(tmp_path, f"{rest}\n}}\n")) == make()


def test_whole_numbers_stay_whole(tmp_path: Path) -> None:
    path = written(tmp_path, make().to_json())
    assert '"value": 4530432,' in path.read_text()
    assert '"value": 4530432,' in records.load(path).to_json()


def test_a_failed_record_has_reason_traceback_and_every_meter(tmp_path: Path) -> None:
    failed = make(status="failed", reason="CUDA out of memory", traceback="Traceback ...", metrics={}, meters={})
    data = json.loads(failed.to_json())
    assert data["traceback"] == "Traceback ..."
    assert data["meters"]["prefill_ms"] == {"value": None, "reason": "not measured: the run was failed"}
    assert records.load(written(tmp_path, failed.to_json())) == failed
    assert (
        json.loads(make(status="skipped", reason="no", metrics={}, meters={}).to_json())["meters"].keys()
        == METERS.keys()
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"meters": {}}, "missing trainable_params"),
        ({"meters": {**full_meters(), "speed": records.unavailable("x")}}, "unknown meter 'speed'"),
        ({"meters": {**full_meters(), "prefill_ms": records.scalar(1.0, "s")}}, "prefill_ms is in ms, got unit 's'"),
        ({"metrics": {}}, "has metrics and no reason"),
        ({"reason": "why"}, "has metrics and no reason"),
        ({"status": "failed"}, "needs a reason"),
        ({"status": "skipped", "reason": "x", "traceback": "y"}, "only a failed record"),
        ({"status": "done"}, "status"),
        ({"run_id": "../../etc/passwd"}, "run_id"),
        ({"surprise": 1}, "surprise"),
        ({"schema": 2}, "schema"),
    ],
)
def test_what_is_incomplete_or_unknown_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused_by_field(bad: float) -> None:
    with pytest.raises(ValueError, match="value"):
        MetricValue(value=bad, unit="%", goal="max", n=1)
    with pytest.raises(ValueError, match=r"ci95"):
        MetricValue(value=1.0, unit="%", goal="max", n=1, ci95=(0.0, bad))
    with pytest.raises(ValueError, match="value"):
        records.scalar(bad, "ms")
    with pytest.raises(ValueError, match="samples"):
        records.distribution([1.0, bad], "ms")
    with pytest.raises(ValueError, match=r"run\.loss\[1\] must be a finite number"):
        make(provenance={"run": {"loss": [1.0, bad]}})


def test_wrong_types_are_refused_not_converted() -> None:
    with pytest.raises(ValueError, match="value"):
        MetricValue(value="93", unit="%", goal="max", n=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="value"):
        records.scalar(True, "ms")
    with pytest.raises(ValueError, match=r"root must be JSON .* got \w*Path"):
        Cell(method="a", task="b", backbone="c", seed=0, options={"root": Path("x")})
    with pytest.raises(ValueError, match="null value needs a reason"):
        MetricValue(value=None, unit="%", goal="max", n=0)


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        make().status = "failed"
    options: dict[str, Any] = {"run": {"limit": 1}}
    cell = Cell(method="a", task="b", backbone="c", seed=0, options=options)
    options["run"]["limit"] = 2
    assert cell.options == {"run": {"limit": 1}}


def test_text_that_is_no_utf8_is_kept_readable(tmp_path: Path) -> None:
    record = make(status="failed", reason="no file b\udce4r", metrics={}, provenance={"argv": ["b\udce4r", "été"]})
    again = records.load(written(tmp_path, record.to_json()))
    assert again.reason == "no file b\\udce4r"
    assert again.provenance["argv"] == ["b\\udce4r", "été"]


def test_distribution_percentiles() -> None:
    samples = [float(value) for value in range(11)]
    meter = records.distribution(samples, "ms")
    assert (meter.median, meter.p20, meter.p80, meter.n) == (statistics.median(samples), 2.0, 8.0, 11)
    one = records.distribution([7], "ms")
    assert (one.median, one.p20, one.p80, one.n) == (7.0, 7.0, 7.0, 1)
    with pytest.raises(ValueError, match="one or more"):
        records.distribution([], "ms")


# Files that cannot be used


def test_a_truncated_file_is_named_with_line_and_column(tmp_path: Path) -> None:
    text = make().to_json()
    path = written(tmp_path, text[: text.index('"status"') + 4])
    with pytest.raises(
        RecordError, match=r"run\.json: no valid JSON at line 4 column 3: Unterminated string"
    ) as caught:
        records.load(path)
    assert "\n" not in str(caught.value)


def test_a_newer_schema_is_refused_with_both_versions(tmp_path: Path) -> None:
    text = make().to_json().replace('"schema": 1', '"schema": 2').replace('"status"', '"state"')
    with pytest.raises(RecordError, match=r"run\.json: schema 2 is newer than schema 1"):
        records.load(written(tmp_path, text))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"value": 93.07', '"value": NaN', "NaN is not a JSON number"),
        ('"value": 93.07', '"value": 1e999', r"metrics\.accuracy\.value"),
        ('"value": 93.07', '"value": "93"', r"metrics\.accuracy\.value"),
        ('"seed": 0', '"seed": 0.5', r"cell\.seed"),
        ('"status": "ok"', '"status": "fine"', "status"),
        ('"reason": null', '"mood": null', "mood"),
    ],
)
def test_a_wrong_field_is_named_in_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = make().to_json()
    assert old in text
    with pytest.raises(RecordError, match=rf"run\.json: .*{message}") as caught:
        records.load(written(tmp_path, text.replace(old, new, 1)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000, "1" * 10_000])
def test_what_is_no_record_at_all_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecordError, match=r"run\.json"):
        records.load(written(tmp_path, text))


def test_bytes_and_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes(b'{"schema": "\xe9"}')
    with pytest.raises(RecordError, match=r"latin\.json"):
        records.load(tmp_path / "latin.json")
    with pytest.raises(RecordError, match="cannot be read"):
        records.load(tmp_path)


# Keys and ids


def test_the_key_is_that_of_the_options_not_of_who_set_them() -> None:
    same = CELL.model_copy(update={"explicit": {}, "options": dict(reversed(CELL.options.items()))})
    assert cell_key(same) == cell_key(CELL)
    changes: list[dict[str, Any]] = [{"method": "x"}, {"task": "x"}, {"backbone": "x"}, {"seed": 1}, {"options": {}}]
    for change in changes:
        assert cell_key(CELL.model_copy(update=change)) != cell_key(CELL)


def test_the_key_survives_the_file(tmp_path: Path) -> None:
    cell = Cell(method="a", task="b", backbone="c é", seed=0, options={"scales": (256, 64), "lr": 1e-5})
    record = make(cell=cell)
    assert cell_key(records.load(written(tmp_path, record.to_json())).cell) == cell_key(cell)


def test_run_ids_sort_by_start_and_differ() -> None:
    start = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    first, twin = new_run_id(CELL, start), new_run_id(CELL, start)
    assert first.startswith(f"20260102T030405678Z-{cell_key(CELL)[:8]}-")
    assert first != twin
    # The same instant plus a second, told in another time zone.
    later = new_run_id(CELL, (start + timedelta(seconds=1)).astimezone(timezone(timedelta(hours=-8))))
    assert max(first, twin) < later
    assert make(run_id=first).run_id == first
    with pytest.raises(ValueError, match="time zone"):
        new_run_id(CELL, datetime(2026, 1, 1))
