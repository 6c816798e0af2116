"""The example browser's data: answers and verdicts, the telling examples first, a fixed share of the page."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from harness.report import browser
from harness.report.browser import Answered
from harness.report.questions import Questions
from tasks import Example, ExampleScore


def row(label: str, choices: dict[str, int], right: dict[str, bool] | None) -> Answered:
    lines = {id: {"id": id, "output": "ABCD"[choice], "choice": choice} for id, choice in choices.items()}
    scores = None if right is None else {id: ExampleScore(id, 100.0 * value) for id, value in right.items()}
    return Answered(label, "m0", label, 0, lines, scores)


def test_examples_on_which_methods_differ_come_first() -> None:
    rows = [
        row("a", {"1": 0, "2": 0, "3": 1}, {"1": True, "2": True, "3": False}),
        row("b", {"1": 0, "2": 1, "3": 2}, {"1": True, "2": False, "3": False}),
    ]
    found = browser.browser(rows, None, tables=1, pictures=0)
    assert [(example["id"], example["a"], example["r"]) for example in found["examples"]] == [
        ("2", ["A", "B"], [1, 0]),
        ("3", ["B", "C"], [0, 0]),
        ("1", ["A", "A"], [1, 1]),
    ]
    assert found["total"] == 3


def test_without_scores_answers_are_shown_and_not_judged() -> None:
    found = browser.browser([row("a", {"1": 0}, None), row("b", {"2": 1}, None)], None, tables=1, pictures=9)
    assert [(e["a"], e["r"]) for e in found["examples"]] == [
        (["A", "no answer"], [None, None]),
        (["no answer", "B"], [None, None]),
    ]
    assert "prompt" not in found["examples"][0]


def test_captions_have_a_score_and_ranks_a_verdict() -> None:
    spoken = Answered("a", "m0", "a", 0, {"1": {"id": "1", "output": "a cat", "cider": 99.6}}, None)
    ranked = Answered("b", "m1", "b", 0, {"1": {"id": "1", "output": "", "rank": 1}}, None)
    [example] = browser.browser([spoken, ranked], None, tables=1, pictures=0)["examples"]
    assert (example["a"], example["r"]) == (["a cat (CIDEr 100)", "rank 1"], [None, 1])


def test_a_table_takes_no_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "_BUDGET", 10_000)
    many = {str(id): id % 2 for id in range(1000)}
    found = browser.browser([row("a", many, None)], None, tables=2, pictures=0)
    assert found["total"] == 1000
    assert 0 < len(json.dumps(found["examples"])) < 6_000


def test_pictures_are_small_few_and_may_be_broken(tmp_path: Path) -> None:
    for name in "12":
        Image.new("RGB", (900, 300), "red").save(tmp_path / f"{name}.png")
    (tmp_path / "0.png").write_bytes(b"no picture")
    examples = {name: Example(name, tmp_path / f"{name}.png") for name in "012"} | {"x": Example("x", None)}
    known = Questions(examples, {"1": "How many?"}, {"1": "The answer is A."})
    found = browser.browser([row("a", dict.fromkeys("x012", 0), None)], known, tables=1, pictures=2)
    pictures = {example["id"]: example.get("image") for example in found["examples"]}
    assert pictures == {"x": None, "0": "", "1": pictures["1"], "2": None}
    head, _, data = pictures["1"].partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as small:
        assert small.size == (160, 53)
    assert [example["prompt"] for example in found["examples"] if example["id"] == "1"] == ["How many?"]
