"""Texts to BEiT-3 token ids: an XLM-R SentencePiece model by path, or bytes where the weights know no vocabulary."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from harness.backbones import BackboneError

BOS, PAD, EOS, UNKNOWN = 0, 1, 2, 3
MAX_LENGTH = 64  # <s>, at most 62 tokens, </s>: the authors' `num_max_bpe_tokens`
FEWEST = 2  # <s> </s>
FIRST_BYTE = 4


class TextIds:
    """Token ids of whole rows: <s> text </s>."""

    exact_length: int | None = None
    """Of every row, where costs are measured and texts mean nothing."""

    def __init__(self, split: Callable[[str], Sequence[int]]) -> None:
        self._ids: Callable[[str], tuple[int, ...]] = lru_cache(maxsize=100_000)(lambda text: tuple(split(text)))

    def length(self, text: str) -> int:
        """Tokens of a row before any cut."""
        return len(self._ids(text)) + 2 if self.exact_length is None else self.exact_length

    def row(self, text: str) -> list[int]:
        """At most `MAX_LENGTH` ids; of a longer text the end is cut away, but not </s>."""
        ids: Iterable[int] = self._ids(text)
        if self.exact_length is not None:
            ids = itertools.islice(itertools.cycle(self._ids(text) or (UNKNOWN,)), max(0, self.exact_length - 2))
        return [BOS, *itertools.islice(ids, MAX_LENGTH - 2), EOS]


def byte_ids() -> TextIds:
    """One token per byte of UTF-8."""
    return TextIds(lambda text: [FIRST_BYTE + byte for byte in text.encode()])


def sentencepiece_ids(path: Path, *, vocab: int) -> TextIds:
    """The official `beit3.spm` with the ids of XLM-R: <s> 0, <pad> 1, </s> 2, <unk> 3, then its pieces plus one.

    Raises:
        BackboneError: sentencepiece is not installed, the file is missing or no such model, or it has more pieces than
            the text embedding has rows.
    """
    try:
        import sentencepiece  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise BackboneError(f"{path}: reading it needs sentencepiece; run pip install sentencepiece") from error
    if not path.is_file():
        raise BackboneError(f"{path}: no such tokenizer file; give the official beit3.spm")
    model = sentencepiece.SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(path.read_bytes())
    except (RuntimeError, OSError) as error:
        raise BackboneError(f"{path}: not a SentencePiece model; give the official beit3.spm") from error
    pieces = model.get_piece_size()
    if pieces + 1 > vocab:
        raise BackboneError(
            f"{path}: {pieces} pieces do not fit the {vocab} rows of text_embed; give the official beit3.spm"
        )

    def split(text: str) -> list[int]:
        return [piece + 1 if piece != model.unk_id() else UNKNOWN for piece in model.encode(text)]

    return TextIds(split)
