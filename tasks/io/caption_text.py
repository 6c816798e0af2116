"""Captions as training text, and generated text as captions."""

from __future__ import annotations

import re

_DROPPED = re.compile(r"[.!\"()*#:;~]")
_PUBLISHED = re.compile(r"picture of (.+)")


def blip_caption(caption: str) -> str:
    """Lower case, some punctuation dropped, runs of white space as one blank; may become empty.

    Source: pre_caption of BLIP's data sets, which ADEM-VL uses; commas and hyphens stay.
    """
    return " ".join(_DROPPED.sub(" ", caption.lower()).split())


def published_caption(output: str) -> str:
    """What follows the first "picture of" on its line, or the first line where that does not occur.

    Source: ADEM-VL's eval_caption.py, for models trained to repeat the prompt. Elsewhere it would cut "a man with a
    picture of a dog" to "a dog".
    """
    found = _PUBLISHED.search(output)
    return first_line(output if found is None else found.group(1))


def continued_caption(output: str, prompt: str) -> str:
    """The first line of what continues the prompt, without the prompt itself where the output starts with it again."""
    text = output.strip()
    head = text[: len(prompt)]
    repeated = head == prompt and not text[len(prompt) : len(prompt) + 1].isalnum()
    return first_line(text[len(prompt) :] if repeated else text)


def first_line(text: str) -> str:
    """The first line that is not blank, stripped; empty where there is none."""
    lines = text.strip().splitlines()
    return lines[0].strip() if lines else ""
