"""Token ids and labels, against the authors' loaders and by hand."""

from __future__ import annotations

import json

import pytest

from harness.backbones.clip_llama import byte_tokenizer
from harness.backbones.encoding import IGNORED, TextEncoder
from tests.golden import GOLDEN, NEEDS_GOLDEN


class _GoldenBytes(TextEncoder):
    """The golden tokenizer: id = byte + 3."""

    def __init__(self) -> None:
        super().__init__(byte_tokenizer(), max_length=4096)
        self.ids = lambda text: tuple(byte + 3 for byte in text.encode())


@pytest.mark.realdata
@NEEDS_GOLDEN
def test_rows_and_labels_equal_the_authors_loader() -> None:
    cases = json.loads((GOLDEN / "scienceqa_prompt" / "tokenize.json").read_text())["cases"]
    texts = json.loads((GOLDEN / "scienceqa_prompt" / "prompts.json").read_text())["cases"]
    assert cases
    for case in cases:
        text = next(
            t
            for t in texts
            if t["qid"] == case["qid"] and t["prompt_format"] == case["prompt_format"] and not t["use_caption"]
        )
        row = _GoldenBytes().row(text["prompt"], text["answer"], room=case["max_words"])
        padding = case["max_words"] - len(row.ids)
        assert row.ids + [0] * padding == case["example"]
        assert [0 if label == IGNORED else label for label in row.labels] + [0] * padding == case["labels"]
        assert sum(label != IGNORED for label in row.labels) == case["n_labels"]
        assert _GoldenBytes().length(text["prompt"], text["answer"]) == case["full_len"]


def test_labels_cover_the_answer_and_the_end_only() -> None:
    encoder = TextEncoder(byte_tokenizer(), max_length=64)
    row = encoder.row("ab", "cd", room=64)
    assert row.ids == [1, *encoder.ids("abcd"), 2]
    assert row.labels == [IGNORED] * 3 + [*encoder.ids("cd"), 2]
    assert encoder.row("ab", None, room=64).labels == [IGNORED] * 3


def test_the_unknown_token_is_never_a_label() -> None:
    tokenizer = byte_tokenizer()
    encoder = TextEncoder(tokenizer, max_length=64)
    encoder.ids = lambda text: tuple(tokenizer.unk_token_id if c == "?" else 50 for c in text)
    assert encoder.row("p", "x?", room=9).labels == [IGNORED, IGNORED, 50, IGNORED, 2]


def test_a_continuation_has_no_start_of_text() -> None:
    encoder = TextEncoder(byte_tokenizer(), max_length=64)
    assert encoder.continuation(" A") == list(encoder.ids(" A"))


def test_new_text_ends_at_the_first_eos() -> None:
    encoder = TextEncoder(byte_tokenizer(), max_length=64)
    assert encoder.decode([*encoder.ids(" B."), 2, *encoder.ids("C")]) == " B."


@pytest.mark.parametrize("length", [4, 5, 9, 40])
@pytest.mark.parametrize("answer", [None, "cd"])
def test_rows_of_an_exact_length_repeat_or_cut_the_prompt(length: int, answer: str | None) -> None:
    encoder = TextEncoder(byte_tokenizer(), max_length=64, exact_length=length)
    row = encoder.row("abcd", answer, room=64)
    assert len(row.ids) == len(row.labels) == encoder.length("abcd", answer) == length
    assert row.ids[0] == 1
    answered = 0 if answer is None else min(3, length - 2)
    assert [label for label in row.labels if label != IGNORED] == row.ids[length - answered :]
    assert row.ids[1 : length - answered] == ([*encoder.ids("abcd")] * 10)[: length - answered - 1]
