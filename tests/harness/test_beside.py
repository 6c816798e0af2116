"""Predictions and samples that someone compressed are read as before; a damaged file is named."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from harness.report.answers import NoAnswersError, read
from harness.results_check import check
from harness.store import Store, StoreError
from tests.harness.test_results_check import ROWS, make


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """One record, whose predictions and samples are compressed."""
    store = Store(tmp_path)
    path = store.append(make(), ROWS, samples={"train_loss": [2.0, 1.0]})
    for kind in ("predictions", "samples"):
        written = path.with_name(f"{path.stem}.{kind}.jsonl")
        packed(written).write_bytes(gzip.compress(written.read_bytes()))
        written.unlink()
    return store


def packed(path: Path) -> Path:
    return path.with_name(f"{path.name}.gz")


def predictions(store: Store) -> Path:
    [found] = store.root.rglob("*.predictions.jsonl.gz")
    return found


def test_compressed_files_are_read_as_before(store: Store) -> None:
    [record] = store.read()
    assert record.predictions is not None
    assert store.rows(record, record.predictions) == ROWS
    assert store.samples(record) == {"train_loss": [2.0, 1.0]}
    assert [line["id"] for line in read(record, store)] == [row["id"] for row in ROWS]
    assert check(store.root) == []


def test_the_file_itself_goes_before_a_compressed_one(store: Store) -> None:
    [record] = store.read()
    assert record.predictions is not None
    file = predictions(store)
    file.with_name(file.name.removesuffix(".gz")).write_bytes(gzip.decompress(file.read_bytes()))
    file.write_bytes(b"")
    assert store.rows(record, record.predictions) == ROWS


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_compressed_file_that_was_cut_is_named(store: Store, share: float) -> None:
    [record], file = store.read(), predictions(store)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    assert record.predictions is not None
    with pytest.raises(StoreError, match=r"predictions\.jsonl\.gz: (cannot be read|not the file)"):
        store.rows(record, record.predictions)
    with pytest.raises(NoAnswersError, match=r"predictions\.jsonl\.gz"):
        read(record, store)
    [problem] = check(store.root)
    assert problem.path == file


def test_what_is_no_gzip_is_named(store: Store) -> None:
    [record], file = store.read(), predictions(store)
    file.write_bytes(b"no gzip")
    assert record.predictions is not None
    with pytest.raises(StoreError, match=r"predictions\.jsonl\.gz: cannot be read \(damaged: "):
        store.rows(record, record.predictions)


def test_another_content_is_told_apart(store: Store) -> None:
    [record], file = store.read(), predictions(store)
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()).replace(b"0", b"1")))
    assert record.predictions is not None
    with pytest.raises(StoreError, match=r"not the file that its record names \(sha256\)"):
        store.rows(record, record.predictions)
    assert "the sha256 is not the one in the record" in str(check(store.root)[0])


def test_a_compressed_file_of_no_record_is_told(store: Store) -> None:
    file = predictions(store)
    file.with_name("other.samples.jsonl.gz").write_bytes(file.read_bytes())
    [problem] = check(store.root)
    assert "samples of no record" in str(problem)
