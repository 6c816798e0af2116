"""Tables in Markdown and LaTeX: the shape is kept and names stay text, whatever the text."""

from __future__ import annotations

import re

import pytest
from markdown_it import MarkdownIt

from harness.record import MetricValue, unavailable
from harness.tables.leaderboard import markdown, render
from tests.markdown_tables import parsed
from tests.records import make


def test_latex_is_a_booktabs_table_whatever_the_names() -> None:
    hostile = "50%_off & \\input{x} #1 ~^<b> \ue000$"
    text = render([make(hostile, 60.0), make("b", 50.0)], format="latex")
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    [line] = [line for line in text.splitlines() if line.strip().startswith("50")]
    assert line.count(" & ") == text.split(r"\midrule")[0].splitlines()[-1].count(" & ")
    assert r"50\%\_off \& \textbackslash{}input\{x\} \#1" in line
    assert r"\textbf{60.00} [1.00, 99.00]" in line
    assert not {"\ue000", "\ue001"} & set(text)
    assert r"Acc. 500 (\%)" in text


def test_latex_names_methods_without_a_result() -> None:
    gone = make("lora_x", status="failed", reason="50% gone\n\\end{table}")
    text = render([make("a"), gone], format="latex")
    assert r"\par\footnotesize lora\_x: failed (seeds 0): 50\% gone \textbackslash{}end\{table\}" in text
    alone = render([gone], format="latex")
    assert r"lora\_x: failed" in alone
    assert r"\toprule" not in alone


def test_latex_holds_what_pdflatex_knows() -> None:
    text = render([make("a→b ✓ − ×")], format="latex")
    assert r"a$\rightarrow$b $\surd$ $-$ $\times$" in text
    assert not set("→✓−×·–") & set(text)


HOSTILE = "a|b\n<script>alert(1)</script> **x** `y` [z](http://e) __u__ $e^x$ \\ & \x1b[31m\u2028\u202e end"


def test_hostile_text_keeps_the_shape() -> None:
    score = MetricValue(value=1.0, unit=HOSTILE, goal="max", n=1)
    records = [
        make(HOSTILE, metrics={HOSTILE: score, "other": score}, backbone=HOSTILE, run__image=HOSTILE),
        make("b", metrics={HOSTILE: score}, backbone=HOSTILE, run__image=HOSTILE),
        make("c", status="failed", reason=HOSTILE * 20, backbone=HOSTILE, run__image=HOSTILE),
    ]
    text = markdown(records)
    [table] = parsed(text)
    assert len(table) == 2
    assert "<script" not in text
    assert not {"\x1b", "\u2028", "\u202e"} & set(text)
    html = MarkdownIt("commonmark").enable("table").render(text)
    assert "&lt;script&gt;" in html
    assert not [tag for tag in ("<script", "<a ", "<em", "<code", "<img") if tag in html]
    assert max(map(len, text.splitlines())) < 5000


@pytest.mark.parametrize(
    "name", ["# x", "+ x", "- x", "1. x", "12) x", "=x", "--- x", "-", "3.5 x", "www.e.com http://e.com"]
)
def test_names_that_begin_like_markup_stay_text(name: str) -> None:
    made = MarkdownIt("commonmark").enable("table")
    records = [make("a"), make(name, status="failed", reason=name), make("b", meters={"prefill_ms": unavailable(name)})]
    html = made.render(markdown([*records, make(name, 10.0, seed=3, method__more=1)]))
    usual = made.render(
        markdown([*[r for r in records if r.cell.method != name], make("c", status="failed", reason="c")])
    )
    assert (html.count("<h1"), html.count("<ol"), html.count("<a ")) == (0, 0, 0)
    assert html.count("<ul") == usual.count("<ul")
    assert re.sub(r"\s+", " ", name) in html.replace("&lt;", "<")


def test_addresses_are_no_links() -> None:
    assert r"http\://e.com www\.e.com" in markdown([make(status="failed", reason="http://e.com www.e.com")])


def test_underscores_within_names_stay_readable() -> None:
    assert "lr_max=1" in markdown([make(train__lr_max=1)])
