"""A results folder: records, what lies beside them, and everything that is made of them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from harness import cli, report, reproduce, results_check, space
from harness.plan import build
from harness.record import Record, RecordError, _sealed, load
from harness.report import answers, curves
from harness.report.answers import NoAnswersError
from harness.statistics.example_scores import reader
from harness.statistics.paired import Incomparable
from harness.store import Store, StoreError, parse_lines
from harness.tables import published_tables
from harness.tables.comparison import report as compare
from harness.tables.leaderboard import UnknownColumn, View, render
from harness.tables.published import PublishedError
from harness.tables.published import read as read_published
from tests.fuzz.mutations import KINDS, bad_json, damaged, places, wrong_key, wrong_value
from tests.fuzz.refusals import cases, fuzz
from tests.harness.report.records import make

TUNED = {"tuning": {"trials": 2, "values": {"train.lr": 0.1}, "best": 1}}
LINES = [{"id": str(n), "output": "A", "choice": n % 3, "score": 100.0 * (n % 2), "group": str(n)} for n in range(60)]
LOSSES = {"train_loss": [2.0, 1.5, 1.0], "train_step_ms": [3.0, 2.0]}


def whole(number: int = 1, method: str = "memvp", **fields: Any) -> Record:
    provenance = {
        "argv": ["run", "--methods", "all", "--task", "scienceqa", "--set", "memvp.slots=80", "--results", "elsewhere"],
        "cpu": {"model": "a", "threads": 2, "cores": 2}, "gpu": {"names": ["b"]}, "isolated": True, **TUNED,
    }  # fmt: skip
    return make(number, method=method, provenance=provenance, **fields)


def plain(record: Record) -> dict[str, Any]:
    """What its file holds, but for the seal that records have not always had."""
    found: dict[str, Any] = json.loads(record.to_json())
    del found["sha256"]
    return found


def encoded(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode()


@pytest.fixture
def path(folder: Path) -> Path:
    """The file of a record that others may be compared with."""
    store = Store(folder)
    store.append(whole(2, "lora"), LINES, samples=LOSSES)
    return store.append(whole(), LINES, samples=LOSSES)


def test_damaged_records(path: Path, folder: Path) -> None:
    """As they lie there: the seal tells a change that leaves them well-formed."""
    good = path.read_bytes()

    def read(content: bytes) -> None:
        path.write_bytes(content)
        load(path)

    found = fuzz(read, damaged(good), good=good, folder=folder, errors=(RecordError,), names=str(path))
    assert not found.read, "a record that was changed is trusted"


def test_wrong_records(path: Path, folder: Path) -> None:
    """With a seal that fits, or from before there were seals."""

    def read(content: bytes) -> None:
        with contextlib.suppress(UnicodeDecodeError):
            content = _sealed(content.decode()).encode() if content.endswith(b"\n}\n") else content
        path.write_bytes(content)
        load(path)

    good, errors = plain(whole()), (RecordError,)
    assert fuzz(read, bad_json(good), good=encoded(good), folder=folder, errors=errors, names=str(path)).mostly_refused


LOOSE = (("cell", "options"), ("cell", "explicit"), ("provenance",))


def loose(record: dict[str, Any], where: Sequence[tuple[str, ...]] = LOOSE) -> st.SearchStrategy[bytes]:
    """Records that are wrong only where any JSON is allowed: options and provenance."""
    parts = st.sampled_from(where)

    def text(keys: tuple[str, ...]) -> st.SearchStrategy[bytes]:
        inner = functools.reduce(lambda value, key: value[key], keys, record)
        others = st.one_of(wrong_value(inner, fragments=KINDS), wrong_value(inner), wrong_key(inner))
        mark = json.dumps("@ inner @")
        outer = json.loads(json.dumps(record))
        functools.reduce(lambda value, key: value[key], keys[:-1], outer)[keys[-1]] = "@ inner @"
        return others.map(lambda new: json.dumps(outer).replace(mark, new).encode("utf-8", "surrogatepass"))

    return parts.flatmap(text)


def tables(folder: Path) -> None:
    store = Store(folder)
    records = store.read()
    for format in ("md", "latex", "csv", "json"):
        render(records, format=format, scores=reader(store))  # type: ignore[arg-type]
    with contextlib.suppress(UnknownColumn):
        render(records, format="md", view=View(columns=("energy_joules",), sort="train_step_ms"))
    space.recorded(records, {"trials": 3})


def test_tables_of_any_options(path: Path, folder: Path) -> None:
    """Whatever a record's options hold, tables are made of it, and runs found by it."""
    other = plain(whole(3))
    name = path.with_name("2026-00000003.json")

    def read(content: bytes) -> None:
        name.write_bytes(content)
        tables(folder)
        with contextlib.suppress(Incomparable):
            compare("memvp", "lora", Store(folder).read(), reader(Store(folder)))

    assert fuzz(read, loose(other), good=encoded(other), folder=folder, count=cases(60), names="").read


def test_tables_of_any_numbers(path: Path, folder: Path) -> None:
    """Records whose scores and meters are as large or small as they may be."""
    good = plain(whole(3))
    del good["cell"], good["provenance"]
    cell = json.dumps({name: value for name, value in plain(whole(3)).items() if name in ("cell", "provenance")})
    numbers = ["1e308", "-1e308", "1e-308", "5e-324", "0", "-0.0", "1e30", "9" * 400, "9" * 30, "1" * 4_000]

    def read(text: str) -> None:
        path.with_name("2026-00000003.json").write_text(f"{text[:-1]}, {cell[1:]}", encoding="utf-8")
        tables(folder)

    inputs = wrong_value(good, fragments=numbers).filter(lambda text: text.startswith("{"))
    assert fuzz(read, inputs, good=json.dumps(good), folder=folder, names="", count=cases(100)).mostly_refused


def test_the_page(path: Path, folder: Path) -> None:
    other = plain(whole(3))

    def read(content: bytes) -> None:
        path.with_name("2026-00000003.json").write_bytes(content)
        report.render(Store(folder).read(), folder)

    assert fuzz(read, loose(other), good=encoded(other), folder=folder, count=cases(25), names="").read


def test_command_lines_out_of_records(path: Path, folder: Path) -> None:
    """`reproduce` runs what a record says, or says why not."""
    good = plain(whole())

    def read(content: bytes) -> None:
        path.write_bytes(content)
        args = reproduce.arguments(load(path), cli.parse, results=folder / "again")
        build(args)

    inputs = loose(good, [("provenance",)])
    found = fuzz(read, inputs, good=encoded(good), folder=folder, names="", count=cases(80))
    assert found.read
    assert found.refused


def beside(path: Path, folder: Path, kind: str) -> Callable[[bytes], None]:
    """Puts other bytes beside a record, which is made to name them by their hash, and reads them in every way."""
    good = plain(whole())

    def read(content: bytes) -> None:
        named = {"file": f"{path.stem}.{kind}.jsonl", "sha256": hashlib.sha256(content).hexdigest()}
        path.with_name(named["file"]).write_bytes(content)
        path.write_text(json.dumps({**good, kind: named}), encoding="utf-8")
        store = Store(folder)
        [record] = [record for record in store.read() if record.run_id == path.stem]
        answers.scores(store)
        with contextlib.suppress(Incomparable):
            answers.scores(store)(record)
        _, missing = curves.read([record], store)
        if kind == "samples":
            if missing:
                raise StoreError(f"{folder}: {missing[record.run_id]}")
            return
        with contextlib.suppress(NoAnswersError):
            answers.read(record, store)
        compare("memvp", "lora", store.read(), reader(store))

    return read


def written(rows: list[dict[str, Any]]) -> bytes:
    """A file of one JSON object a line."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def lines(good: list[dict[str, Any]]) -> st.SearchStrategy[bytes]:
    """Files of one JSON object a line with one that is wrong, or damaged."""
    rest = [json.dumps(row) for row in good[1:]]
    wrong = st.one_of(wrong_value(good[0]), wrong_key(good[0]))
    place = st.integers(0, len(rest))
    one = st.builds(lambda text, at: "\n".join([*rest[:at], text, *rest[at:], ""]), wrong, place)
    return st.one_of(one.map(lambda text: text.encode("utf-8", "surrogatepass")), damaged(written(good)))


def test_predictions(path: Path, folder: Path) -> None:
    read, good = beside(path, folder, "predictions"), written(LINES)
    assert fuzz(read, lines(LINES), good=good, folder=folder, names="", count=cases(150)).mostly_refused


def test_samples(path: Path, folder: Path) -> None:
    rows = [{"name": name, "unit": "x", "values": values} for name, values in LOSSES.items()]
    read, good = beside(path, folder, "samples"), written(rows[:1])
    assert fuzz(read, lines(rows[:1]), good=good, folder=folder, names="", count=cases(150)).mostly_refused


def test_what_is_not_the_named_file(path: Path, folder: Path) -> None:
    store = Store(folder)
    [record] = [record for record in store.read() if record.run_id == path.stem]
    assert record.predictions is not None
    good = path.with_name(record.predictions.file).read_bytes()

    def read(content: bytes) -> None:
        path.with_name(record.predictions.file).write_bytes(content)  # type: ignore[union-attr]
        with contextlib.suppress(NoAnswersError):
            answers.read(record, store)
        reader(store)(record)

    found = fuzz(read, damaged(good), good=good, folder=folder, errors=(StoreError,))
    assert not found.read, "another file has its hash"


def test_the_check_finds_every_damage(path: Path, folder: Path) -> None:
    good = path.read_bytes()

    def read(content: bytes) -> None:
        path.write_bytes(content)
        problems = results_check.check(folder)
        text = results_check.report(folder, problems)
        assert all(line.isprintable() for line in text.splitlines())
        assert len(text.splitlines()) == len(problems) + 1
        if problems:
            raise RecordError(f"{folder}: {len(problems)} problems")

    inputs = st.one_of(damaged(good), bad_json(plain(whole())))
    assert fuzz(read, inputs, good=good, folder=folder, count=cases(120)).mostly_refused


def test_published_tables(folder: Path) -> None:
    source = Path(__file__).parents[2] / "results" / "published" / "vqa-adem-vl-table-04.json"
    good = json.loads(source.read_text(encoding="utf-8"))
    good["rows"] = good["rows"][:2]
    assert len(places(good)) > 20

    def read(content: bytes) -> None:
        (folder / "a table.json").write_bytes(content)
        found = read_published(folder)
        published_tables.markdown(found)
        published_tables.latex(found)
        published_tables.rows(found)

    rest: Any = {"folder": folder, "errors": (PublishedError,), "names": str(folder / "a table.json")}
    assert fuzz(read, bad_json(good), good=encoded(good), **rest).mostly_refused


def test_lines_of_any_bytes(folder: Path) -> None:
    """The one way in for all files of one JSON object a line."""

    def read(content: bytes) -> None:
        try:
            parse_lines(content)
        except ValueError as error:
            raise StoreError(f"{folder}: {error}") from None

    good, errors = written(LINES[:3]), (StoreError,)
    assert fuzz(read, lines(LINES[:3]), good=good, folder=folder, errors=errors).mostly_refused
