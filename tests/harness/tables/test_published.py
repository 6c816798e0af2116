"""Published figures: every printed number is there with its digits, and bad files are named."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import methods
import tasks
from harness.tables.published import PublishedError, PublishedRow, PublishedTable, read
from harness.tables.published_tables import markdown_table as markdown
from tasks.io.caption_scores import NAMES
from tasks.io.retrieval_metrics import Fold, score_ranks
from tasks.io.scienceqa_scores import score_choices
from tests.harness.tables.published_files import FOLDER, Reader, document, grid, named

COLLECTION = Path(os.environ.get("VLTUNE_SHARED", Path(__file__).parents[4] / "shared")) / "PUBLISHED.md"
NOT_OUR_SCORES = {"train_hours", "memory_g"}
# The test split of ScienceQA (problems.json, pid_splits.json).
SUBJECTS = {"accuracy_nat": 2252, "accuracy_soc": 889, "accuracy_lan": 1100}
QUESTIONS = 4241
# Not the digits of a name such as [T7] or G1.
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?")

needs_collection = pytest.mark.skipif(not COLLECTION.is_file(), reason=f"no {COLLECTION}; set VLTUNE_SHARED")


# The files of the repository


def test_every_file_is_read() -> None:
    tables = read(FOLDER)
    assert len(tables) == len(list(FOLDER.glob("*.json"))) > 0
    assert {"scienceqa", "coco_caption", "retrieval"} < {table.task for table in tables}
    assert len({table.title for table in tables}) == len(tables)


def test_our_methods_are_called_by_their_names() -> None:
    ours = {row.ours for table in read(FOLDER) for row in table.rows} - {None}
    assert {"ademvl", "memvp", "mwa"} <= ours <= set(methods.names())


def test_scores_have_the_names_of_our_tasks() -> None:
    known = {
        "scienceqa": set(score_choices({}, [])) | NOT_OUR_SCORES,
        "coco_caption": set(NAMES),
        "retrieval": set(score_ranks([Fold([1], [1])])),
    }
    for table in read(FOLDER):
        if table.task in tasks.names():
            assert set(table.metrics) <= known[table.task]


def test_nothing_is_cut_in_the_tables() -> None:
    assert "…" not in "".join(map(markdown, read(FOLDER)))


def test_the_folder_is_described() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for cls in (PublishedTable, PublishedRow):
        assert [f.name for f in dataclasses.fields(cls) if f"| `{f.name}` |" not in text] == []


# Against the collection of figures


def printed_tables() -> list[list[list[str]]]:
    """The tables of section A: header and rows, cells without marks of emphasis."""
    section = COLLECTION.read_text(encoding="utf-8").partition("## A. Published tables")[2].partition("\n---\n")[0]
    tables = []
    for block in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE):
        header, _, *rows = [line.strip("|").split("|") for line in block.splitlines()]
        tables.append([[re.sub(r"[*\\]", "", cell).strip() for cell in row] for row in (header, *rows)])
    return tables


@pytest.mark.realdata
@needs_collection
def test_every_number_of_the_published_tables_is_in_one_file() -> None:
    held = [set(NUMBER.findall(markdown(table))) for table in read(FOLDER)]
    rows = [row for _, *rows in printed_tables() for row in rows if "not found" not in row[-1]]
    assert len(rows) > 60
    for row in rows:
        wanted = set(NUMBER.findall(" | ".join(row).replace("= A1 row", "")))
        assert wanted
        assert any(wanted <= numbers for numbers in held), row


@pytest.mark.realdata
@needs_collection
@pytest.mark.parametrize(
    ("heads", "files"),
    [
        ("Method Trainable LLM NAT", ["scienceqa-adem-vl-table-01"]),
        ("Method Trainable BLEU-4", ["coco_caption-adem-vl-table-02", "coco_caption-adem-vl-readme"]),
        ("Method Train. LLM FLOPs", ["cost-adem-vl-table-05"]),
        ("[ADEM-T4]", ["vqa-adem-vl-table-04"]),
        ("Setting Params NAT", ["scienceqa-adem-vl-table-06"]),
    ],
)
def test_tables_are_shown_as_printed(heads: str, files: list[str]) -> None:
    [(header, *printed)] = [table for table in printed_tables() if " ".join(table[0]).startswith(heads)]
    shown = [row for name in files for row in grid(markdown(named(name)))]
    assert len(shown) == len(printed)
    for cells, row in zip(printed, shown, strict=True):
        # Table 5 prints the unit in each cell (110.44T); the README's row names its model in the first column.
        values = [re.sub(r"T$", "", cell) for cell in cells[1:]]
        assert row.pop("Method").replace("\\", "") in cells[0]
        trained, llm = row.pop("Trainable", "–"), row.pop("LLM", "–")
        assert [trained, *([llm] if "LLM" in header else []), *row.values()] == values


def test_rows_that_two_sources_print_alike_are_alike() -> None:
    first = {(row.method, row.backbone): row.values for row in named("scienceqa-adem-vl-table-01").rows}
    other = {row.method: row.values for row in named("scienceqa-leaderboard-readme").rows}
    assert other["LaVIN-7B"] == first["LaVIN", "7B"]
    assert other["LLaVA"] == first["LLaVA", "13B"]
    assert other["LLaMA-Adapter"] == first["LLaMA-Adapter", "7B"]


# The arithmetic of the figures


def complete(name: str) -> Iterator[PublishedRow]:
    """ScienceQA rows with all columns; not Human, whose average is not the mean of its columns."""
    for row in named(name).rows:
        if row.method != "Human" and None not in row.values.values():
            yield row


def score(row: PublishedRow, name: str) -> Decimal:
    value = row.values[name]
    assert value is not None
    return value


FILES = ("scienceqa-adem-vl-table-01", "scienceqa-adem-vl-table-06", "scienceqa-leaderboard-readme")


def test_subjects_give_the_printed_average() -> None:
    assert sum(SUBJECTS.values()) == QUESTIONS
    # The columns of random chance do not give its average by subject, in any source.
    rows = [row for name in FILES for row in complete(name) if row.method != "random chance"]
    assert len(rows) == 27
    for row in rows:
        mean = sum((score(row, name) * n for name, n in SUBJECTS.items()), Decimal()) / QUESTIONS
        assert abs(mean - score(row, "accuracy")) <= Decimal("0.01"), row.method


def test_one_split_into_grades_gives_every_printed_average() -> None:
    rows = [row for name in FILES for row in complete(name)]

    def error(row: PublishedRow, low: int) -> Decimal:
        mean = (score(row, "accuracy_g1_6") * low + score(row, "accuracy_g7_12") * (QUESTIONS - low)) / QUESTIONS
        return abs(mean - score(row, "accuracy"))

    # How many questions are of grades 1 to 6 is not in the data at hand.
    fits = [low for low in range(QUESTIONS + 1) if all(error(row, low) <= Decimal("0.01") for row in rows)]
    assert fits == list(range(2719, 2728))


def test_recalls_give_the_printed_mean() -> None:
    [row] = named("retrieval-beit3-issue-1382").rows
    recalls = [score(row, name) for name in row.values if name != "mean_recall"]
    assert len(recalls) == 6
    assert abs(sum(recalls, Decimal()) / 6 - score(row, "mean_recall")) <= Decimal("0.005")


# Reading


def test_tables_cannot_be_changed(read_text: Reader) -> None:
    table = read_text(json.dumps(document()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.title = "x"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.rows[0].method = "x"  # type: ignore[misc]


def test_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.json").write_text(json.dumps(document(title=name)), encoding="utf-8")
    (tmp_path / ".hidden.json").write_text("no JSON", encoding="utf-8")
    (tmp_path / "README.md").write_text("no JSON", encoding="utf-8")
    assert [table.title for table in read(tmp_path)] == ["a", "b", "c"]


# Bad files

BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"schema": ...}, "schema: Field required"),
    ({"schema": 0}, "schema: Input should be 1"),
    ({"schema": 2}, "schema 2 is newer than schema 1 of this vltune; update vltune"),
    ({"task": " "}, "task: String should have at least 1 character"),
    ({"title": "x" * 301}, "title: String should have at most 300 characters"),
    ({"source": "Paper"}, "source: "),
    ({"source__arxiv": "arXiv 2410"}, "source.arxiv: String should match pattern"),
    ({"metrics": {}}, "metrics: "),
    ({"rows": []}, "rows: "),
    ({"Rows": []}, "Rows: Unexpected keyword argument"),
    ({"row__method": None}, "rows.0.method: Input should be a valid string"),
    ({"row__method": "\ud800"}, "rows.0.method: Input should be a valid string"),
    ({"row__trainable_params": "4.5M"}, "rows.0.trainable_params: Value error, must be a number"),
    ({"row__values": {"accuracy": "93.85"}}, "rows.0.values.accuracy: Value error, must be a number"),
    ({"row__values": {"accuracy": True}}, "rows.0.values.accuracy: Value error, must be a number"),
    ({"row__values": {}}, "rows: Value error, values of row 0 ('A') lack 'accuracy': write null for not found"),
    ({"row__values": {"accuracy": 1, "x": 2}}, "rows: Value error, values of row 0 ('A') have 'x': add it to metrics"),
]


@pytest.mark.parametrize(("fields", "said"), BAD_FIELDS)
def test_a_wrong_field_is_named(read_text: Reader, tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(PublishedError) as caught:
        read_text(json.dumps(document(**fields)))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'x.json'}: {said}")
    assert "\n" not in message
    assert "results/published/README.md" in message or "update vltune" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"schema": 1,\n "rows"', "no valid JSON at line 2 column 8"),
        ("[]", "must hold one JSON object"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": 1, "b": 2, "a": 3}', "key 'a' comes twice in one object"),
        ('{"a": 1e99999999999999999999}', "no valid JSON: "),
        ("[" * 100_000, "no valid JSON: "),
        (json.dumps(document()).replace(": 9}", ": 1e999999999}"), "rows.0.values.accuracy: Decimal input"),
    ],
)
def test_a_text_that_is_no_table_is_refused(read_text: Reader, text: str, said: str) -> None:
    with pytest.raises(PublishedError, match=re.escape(said)):
        read_text(text)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(PublishedError, match="folder.json: cannot be read"):
        read(tmp_path)
    with pytest.raises(PublishedError, match="nowhere: no such folder"):
        read(tmp_path / "nowhere")
    (tmp_path / "folder.json").rmdir()
    (tmp_path / "latin.json").write_bytes(b'{"title": "\xe9"}')
    with pytest.raises(PublishedError, match="latin.json: no valid JSON"):
        read(tmp_path)
