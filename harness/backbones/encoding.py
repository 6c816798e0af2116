"""Texts to token ids with labels on the answer alone, as the authors' data loaders do."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

IGNORED = -100
ANCHOR = "is"  # a continuation is tokenised after a word, so that no start-of-text rule of the tokenizer applies


@dataclass(frozen=True)
class Encoded:
    """One row: token ids and, for each, the label (-100 where no loss is taken)."""

    ids: list[int]
    labels: list[int]


class TextEncoder:
    """Tokenises with special tokens placed by hand: BOS first where the tokenizer has one, EOS after an answer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int, exact_length: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.exact_length = exact_length  # of every row, where costs are measured and texts mean nothing
        self.bos = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
        self.eos = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        self.pad_id = int(tokenizer.pad_token_id) if tokenizer.pad_token_id is not None else (self.eos or [0])[0]
        self.ids: Callable[[str], tuple[int, ...]] = lru_cache(maxsize=100_000)(self._ids)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def length(self, prompt: str, answer: str | None) -> int:
        """Tokens of a row before any cut, special tokens counted."""
        if self.exact_length is not None:
            return self.exact_length
        return len(self.bos) + len(self.ids(prompt + (answer or ""))) + (len(self.eos) if answer is not None else 0)

    def row(self, prompt: str, answer: str | None, *, room: int) -> Encoded:
        """Token ids of prompt + answer; labels on the answer and EOS when there is an answer.

        The prompt's length is that of the prompt tokenised alone, as in the authors' loaders. The unknown token is
        never a label (their loss ignores id 0, which is `<unk>` in LLaMA). A row longer than `room` is cut on the
        right: the harness counts such rows first and refuses them unless the user asked for cutting.
        """
        start = len(self.bos) + len(self.ids(prompt))
        ids = [*self.bos, *self.ids(prompt + (answer or ""))]
        if answer is not None:
            ids += self.eos
        if self.exact_length is not None:
            start, ids = _stretched(ids, start, len(self.bos), self.exact_length)
        ids = ids[:room]
        unknown = self.tokenizer.unk_token_id
        if unknown in self.eos:  # some tokenizers name one token for both; the end must stay trainable
            unknown = None
        labels = [
            IGNORED if answer is None or position < start or token == unknown else token
            for position, token in enumerate(ids)
        ]
        return Encoded(ids, labels)

    def continuation(self, text: str) -> list[int]:
        """Token ids of a text that follows a word."""
        anchor = self.ids(ANCHOR)
        joined = self.ids(ANCHOR + text)
        return list(joined[len(anchor) :]) if joined[: len(anchor)] == anchor else list(self.ids(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of new tokens, cut at the first EOS, special tokens removed."""
        kept = list(ids)
        for position, token in enumerate(kept):
            if token in self.eos:
                kept = kept[:position]
                break
        return str(self.tokenizer.decode(kept, skip_special_tokens=True))


def _stretched(ids: list[int], start: int, fixed: int, length: int) -> tuple[int, list[int]]:
    """A row of `length` tokens and where its answer begins: the prompt after its `fixed` tokens is repeated or cut."""
    answer = ids[start:][: max(0, length - fixed - 1)]
    prompt = list(itertools.islice(itertools.cycle(ids[fixed:start] or ids[:1]), max(0, length - fixed - len(answer))))
    return length - len(answer), [*ids[:fixed], *prompt, *answer][:length]
