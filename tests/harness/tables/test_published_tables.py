"""Published figures as tables: digits as written, sources and notes, the shape kept whatever the text."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from decimal import Decimal

import pytest

from harness import report
from harness.tables.leaderboard import render
from harness.tables.published import read
from harness.tables.published_tables import latex, rows
from harness.tables.published_tables import markdown_table as markdown
from tests.harness.report.records import make
from tests.harness.tables.published_files import FOLDER, Reader, document, grid, named


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
