"""The page of `flops --format html`: what its plots show, and what it says without them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.meters import growth
from harness.meters.growth import Cost
from harness.report import costs

FOUND = [
    Cost(method, tokens, images, train * tokens * 10**9, 10**9 * tokens, 10**8)
    for method, train in (("memvp", 3), ("free", 0))
    for tokens in (200, 100)
    for images in (0, 1)
]


def data(text: str) -> list[dict[str, Any]]:
    """The plots that the page's script draws."""
    [found] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)["plots"]  # type: ignore[no-any-return]


def test_each_method_has_a_line_with_a_picture_and_one_without() -> None:
    train, prefill, token = data(costs.render(FOUND, {}, backbone="mini"))
    assert [(line["dash"], line["x"], line["y"]) for line in train["lines"]] == [
        ("solid", [100, 200], [300, 600]),
        ("dash", [100, 200], [300, 600]),
    ]
    assert len(prefill["lines"]) == len(token["lines"]) == 4
    assert train["lines"][0]["hover"][1] == ["memvp", "200 tokens with a picture", "600 GFLOP"]
    assert [plot["unit"] for plot in (train, prefill, token)] == ["GFLOP", "GFLOP", "MFLOP"]
    assert token["lines"][0]["y"] == [100, 100]
    assert len({(line["look"], line["symbol"]) for line in prefill["lines"]}) == 2


def test_the_powers_are_in_words() -> None:
    text = costs.render(FOUND, {}, backbone="mini")
    assert "</b>: T^1.00 with a picture, T^1.00 without a picture" in text
    assert "</b>: – with a picture, – without a picture" in text  # "free"
    assert "</b>: T^0.00 with a picture" in text


def test_the_table_has_the_figures_without_a_script() -> None:
    body = costs.render(FOUND, {}, backbone="mini").partition("<main")[2].partition("<script")[0]
    assert '<th scope="col">200 tokens TFLOP</th>' in body
    assert "<td>0.600</td>" in body


def test_names_and_reasons_are_shown_as_they_are() -> None:
    name = "\u202e<i>"
    found = [Cost(name, 100, images, 1, 1, 1) for images in (0, 1)]
    text = costs.render(found, {"memvp": "<img src=x onerror=alert(1)>"}, backbone="<b>x</b>\u202e")
    assert "\u202e" not in text
    assert "&lt;i&gt;</bdi></th>" in text
    assert "&lt;b&gt;x&lt;/b&gt;" in text
    assert "&lt;img src=x" in text
    assert "<img" not in text.partition("<script>")[0]
    assert "No method fits." in costs.render([], {"memvp": "no"}, backbone="mini")


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a page.html"
    command = ["flops", "--methods", "memvp,frozen", "--text-tokens", "16,32", "--format", "html", "--out", str(out)]
    assert cli.main(command) == 0
    assert capsys.readouterr().out == ""
    text = out.read_text(encoding="utf-8")
    assert "What methods cost on <bdi>mini</bdi>" in text
    assert [len(plot["lines"]) for plot in data(text)] == [4, 4, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "html"], "name its file with --out FILE.html"),
        (["--out", "costs.html"], "would hold md; add --format html or name another file"),
        (["--out", "costs.csv"], "would hold md; name another file"),
        (["--format", "json", "--out", "none/costs.json"], "cannot be written (a folder, or in none)"),
        (["--out", "."], "cannot be written (a folder, or in none)"),
    ],
)
def test_a_file_is_looked_at_before_anything_is_counted(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(growth, "costs", pytest.fail)
    assert cli.main(["flops", "--methods", "frozen", "--text-tokens", "16", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_is_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command, out = ["flops", "--methods", "frozen", "--text-tokens", "16", "--format", "json"], tmp_path / "costs.json"
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert cli.main([*command, "--out", str(out)]) == 0
    assert json.loads(out.read_text(encoding="utf-8")) == json.loads(printed)
