"""PTB tokenisation of captions, once for all scorers; the first of two steps for which pycocoevalcap starts Java."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.io.java import complaint


class ScorerError(RuntimeError):
    """A scorer that cannot run here; the message is the reason that a record gives for the missing score."""


@dataclass(frozen=True)
class TokenisedCaptions:
    """Captions by image id as the scorers of pycocoevalcap take them: lower case, without punctuation.

    `references` holds one or more texts for each id, `outputs` a list of exactly one; both have the same ids in the
    same order.
    """

    references: dict[str, list[str]]
    outputs: dict[str, list[str]]


def tokenise(java: Path, references: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> TokenisedCaptions:
    """Tokenise both sides, each by one run of the Stanford tokenizer that pycocoevalcap ships.

    Raises:
        ScorerError: pycocoevalcap is not installed, or its tokenizer does not run.
    Source: pycocoevalcap's PTBTokenizer. Deviations: the texts go through a pipe, where that writes a file into its own
        package folder; every run of white space is one blank, because it leaves in some separators (such as carriage
        returns) that Java takes for ends of lines, which would shift all later captions to wrong images.
    """
    return TokenisedCaptions(
        references=_tokenise_all(java, references),
        outputs=_tokenise_all(java, {id: [text] for id, text in outputs.items()}),
    )


def _tokenise_all(java: Path, texts: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    lines = iter(_tokenise_lines(java, tuple(" ".join(text.split()) for group in texts.values() for text in group)))
    return {id: [next(lines) for _ in group] for id, group in texts.items()}


@functools.lru_cache(maxsize=4)
def _tokenise_lines(java: Path, lines: tuple[str, ...]) -> tuple[str, ...]:
    """Outputs are asked for twice, by image and for the corpus, and all methods have the same references."""
    try:
        from pycocoevalcap.tokenizer import ptbtokenizer
    except ImportError:
        raise ScorerError("pycocoevalcap is not installed: pip install 'vltune[captions]'") from None
    jar = Path(ptbtokenizer.__file__).parent / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
    tokenizer = "edu.stanford.nlp.process.PTBTokenizer"
    command = [str(java), "-cp", str(jar), tokenizer, "-preserveLines", "-lowerCase"]
    try:
        # A text may hold half of a surrogate pair, which no encoding has.
        text = "\n".join(lines).encode("utf-8", "replace")
        run = subprocess.run(command, input=text, capture_output=True, check=True)
    except OSError as error:
        raise ScorerError(f"{java} cannot be started ({error.strerror})") from None
    except subprocess.CalledProcessError as error:
        raise ScorerError(f"the PTB tokenizer failed: {complaint(error.stderr)}") from None
    found = run.stdout.decode("utf-8").split("\n")
    # The output ends in one more line break, or in none after an empty caption.
    if len(found) == len(lines) + 1 and not found[-1]:
        found.pop()
    if len(found) != len(lines):
        raise ScorerError(f"the PTB tokenizer gave {len(found)} lines for {len(lines)} captions")
    return tuple(_without(line, ptbtokenizer.PUNCTUATIONS) for line in found)


def _without(line: str, punctuation: Sequence[str]) -> str:
    return " ".join(word for word in line.rstrip().split(" ") if word not in punctuation)
