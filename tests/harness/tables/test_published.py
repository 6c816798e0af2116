"""Published figures: every printed number is there with its digits, tables keep their shape, bad files are named."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import methods
import tasks
from harness import report
from harness.tables.leaderboard import render
from harness.tables.published import PublishedError, PublishedRow, PublishedTable, read
from harness.tables.published_tables import latex, rows
from harness.tables.published_tables import markdown_table as markdown
from tasks.io.caption_scores import NAMES
from tasks.io.retrieval_metrics import Fold, score_ranks
from tasks.io.scienceqa_scores import score_choices
from tests.harness.report.records import make

FOLDER = Path(__file__).parents[3] / "results" / "published"
COLLECTION = Path(os.environ.get("VLTUNE_SHARED", Path(__file__).parents[4] / "shared")) / "PUBLISHED.md"
NOT_OUR_SCORES = {"train_hours", "memory_g"}
# The test split of ScienceQA (problems.json, pid_splits.json).
SUBJECTS = {"accuracy_nat": 2252, "accuracy_soc": 889, "accuracy_lan": 1100}
QUESTIONS = 4241
# What lies between two pipes, where a backslash takes the next character with it.
CELL = re.compile(r"\|((?:\\.|[^|\\])+)")
# Not the digits of a name such as [T7] or G1.
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?")

needs_collection = pytest.mark.skipif(not COLLECTION.is_file(), reason=f"no {COLLECTION}; set VLTUNE_SHARED")


def named(name: str) -> PublishedTable:
    """The table of one file of the repository."""
    return dict(zip(sorted(path.stem for path in FOLDER.glob("*.json")), read(FOLDER), strict=True))[name]


def grid(text: str) -> list[dict[str, str]]:
    """The rows of the one table of a Markdown text, cells as source; each has as many cells as the header."""
    [block] = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in CELL.findall(line)] for line in block]
    return [dict(zip(header, row, strict=True)) for row in rows]


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


# Reading and showing


def document(**fields: Any) -> dict[str, Any]:
    """A valid file; `row__values={}` sets a field of its only row; a field set to `...` is left out."""
    row: dict[str, Any] = {"method": "A", "ours": None, "backbone": "7B", "trainable_params": 4}
    row |= {"values": {"accuracy": 9}, "notes": []}
    source: dict[str, Any] = {"name": "Paper", "arxiv": "2410.17779", "place": "Table I"}
    whole: dict[str, Any] = {
        "schema": 1,
        "task": "scienceqa",
        "title": "Title",
        "source": source,
        "metrics": {"accuracy": {"label": "Avg", "unit": "%"}},
        "rows": [row],
        "notes": [],
    }
    for name, value in fields.items():
        part, _, key = name.rpartition("__")
        {"": whole, "row": row, "source": source}[part][key] = value
    return {name: value for name, value in whole.items() if value is not ...}


@pytest.fixture
def read_text(tmp_path: Path) -> Callable[[str], PublishedTable]:
    """Reads the text of one file."""

    def one(text: str) -> PublishedTable:
        (tmp_path / "x.json").write_text(text, encoding="utf-8")
        [table] = read(tmp_path)
        return table

    return one


Reader = Callable[[str], PublishedTable]


def test_digits_are_shown_as_written(read_text: Reader) -> None:
    text = json.dumps(document(row__values={"accuracy": "VALUE"}, row__trainable_params="PARAMS"))
    cases = [("94.60", "4.0e6", "4.0M"), ("90", "14e6", "14M"), ("1375.0", "7e9", "7B"), ("0.5", "0.4e6", "0.4M")]
    for value, params, printed in cases:
        table = read_text(text.replace('"VALUE"', value).replace('"PARAMS"', params))
        [row] = grid(markdown(table))
        assert (row["Avg"], row["Trainable"]) == (value, printed)
        assert table.rows[0].values["accuracy"] == Decimal(value)


def test_what_is_missing_is_a_dash_and_empty_columns_are_left_out(read_text: Reader) -> None:
    bare = {"method": "B", "ours": None, "backbone": None, "trainable_params": None, "values": {"accuracy": None}}
    table = read_text(json.dumps(document(rows=[document()["rows"][0], bare])))
    text = markdown(table)
    assert grid(text)[1] == {"Method": "B", "Trainable": "–", "LLM": "–", "Avg": "–"}
    assert text.endswith(
        "\n\nSource: Paper (arXiv 2410.17779), Table I. Values in %. – means no value: not published, or not found."
    )
    alone = markdown(dataclasses.replace(table, rows=table.rows[1:]))
    assert list(grid(alone)[0]) == ["Method", "Avg"]
    assert "no value" not in markdown(dataclasses.replace(table, rows=table.rows[:1]))


def test_units_that_differ_stand_in_the_header_and_notes_name_their_row(read_text: Reader) -> None:
    metrics = {"a": {"label": "Time", "unit": "h"}, "b": {"label": "Avg", "unit": "%"}}
    document_ = document(metrics=metrics, row__values={"b": 1, "a": 2}, row__notes=["late"], notes=["all"])
    text = markdown(read_text(json.dumps(document_)))
    assert grid(text) == [{"Method": "A", "Trainable": "0.000004M", "LLM": "7B", "Time (h)": "2", "Avg (%)": "1"}]
    assert text.startswith("### Title\n\n|")
    assert text.endswith("\n\nSource: Paper (arXiv 2410.17779), Table I.\n\n- All rows: all\n- Row A 7B: late")


# The other formats


def test_latex_has_a_float_for_each_table_with_its_source() -> None:
    tables = read(FOLDER)
    text = latex(tables)
    assert text.count(r"\begin{table}") == text.count(r"\bottomrule") == len(tables)
    assert text.count("never ranked with ours") == len(tables)
    assert "–" not in text
    [row] = [
        line for line in latex([named("scienceqa-adem-vl-table-01")]).splitlines() if line.strip().startswith("GPT-4 ")
    ]
    assert "84.06" in row


def test_flat_rows_have_figures_of_their_own() -> None:
    tables = read(FOLDER)
    flat = rows(tables)
    assert len(flat) == sum(len(table.rows) for table in tables)
    assert {row["status"] for row in flat} == {"published"}
    assert all(row["table"].startswith("Published: ") for row in flat)
    names = {name for row in flat for name in row} - {"table", "task", "method", "status"}
    assert all(name.startswith("published_") for name in names)


def test_csv_and_json_keep_our_rows_and_add_the_papers_below(read_text: Reader) -> None:
    ours = [make(1, score=50.0), make(2, method="b", score=70.0)]
    paper = rows([read_text(json.dumps(document(row__values={"accuracy": "V"})).replace('"V"', "94.60"))])
    for format in ("csv", "json"):
        alone = render(ours, format=format)  # type: ignore[arg-type]
        both = render(ours, format=format, published=paper)  # type: ignore[arg-type]
        if format == "json":
            assert json.loads(both)[:2] == json.loads(alone)
            assert json.loads(both)[2]["published_accuracy"] == 94.6
            continue
        first, last = (list(csv.DictReader(io.StringIO(text))) for text in (alone, both))
        assert [{name: row[name] for name in first[0]} for row in last[:2]] == first
        assert {name: value for name, value in last[2].items() if value} == {
            "table": "Published: Title",
            "task": "scienceqa",
            "method": "A",
            "status": "published",
            "published_source": "Paper (arXiv 2410.17779), Table I",
            "published_llm": "7B",
            "published_trainable_params": "4",
            "published_accuracy": "94.60",
            "published_units": '{"accuracy": "%"}',
            "published_notes": "[]",
        }


def test_the_page_shows_them_below_ours_and_as_text(read_text: Reader) -> None:
    fields = {"title": HOSTILE, "row__method": HOSTILE, "notes": [HOSTILE], "source__name": HOSTILE}
    tables = [read_text(json.dumps(document(metrics={"accuracy": {"label": HOSTILE, "unit": HOSTILE}}, **fields)))]
    page = report.render([make(1)], None, published=tables).partition("<script")[0]
    ours, _, papers = page.partition('id="published"')
    assert "never ranked with ours" in papers
    assert 'class="grid"' in ours
    assert 'class="grid"' not in papers
    assert "&lt;script&gt;" in papers
    assert "\u2028" not in papers
    assert 'id="published"' not in report.render([make(1)], None)


def test_hostile_text_keeps_the_shape_in_latex(read_text: Reader) -> None:
    fields = {"title": HOSTILE, "row__method": HOSTILE, "notes": [HOSTILE], "source__name": HOSTILE}
    text = latex([read_text(json.dumps(document(**fields)))])
    [line] = [line for line in text.splitlines() if line.strip().startswith("a|b")]
    assert line.count(" & ") == 3
    assert r"\$e\^{}x\$" in text or r"\$e\textasciicircum{}x\$" in text


HOSTILE = "a|b\n<script>alert(1)</script> **x** `y` [z](http://e) __u__ $e^x$ \\ & \x1b[31m\u2028\u202e end"


def test_hostile_text_keeps_the_shape(read_text: Reader) -> None:
    fields = {"title": HOSTILE, "row__method": HOSTILE, "row__backbone": HOSTILE, "notes": [HOSTILE]}
    fields |= {"source__name": HOSTILE, "source__place": HOSTILE, "row__notes": [HOSTILE]}
    metrics = {"accuracy": {"label": HOSTILE, "unit": HOSTILE}}
    text = markdown(read_text(json.dumps(document(metrics=metrics, **fields))))
    [row] = grid(text)
    assert len(row) == 4
    assert "<script" not in text
    assert not {"\x1b", "\u2028", "\u202e"} & set(text)
    markdown_it = pytest.importorskip("markdown_it")
    html = markdown_it.MarkdownIt("commonmark").enable("table").render(text)
    assert (html.count("<th "), html.count("<td "), html.count("<li>"), html.count("<h3>")) == (4, 4, 2, 1)
    assert not [tag for tag in ("<script", "<a ", "<em", "<strong", "<code", "<img") if tag in html]


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
