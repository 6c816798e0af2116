"""Texts as themselves in Markdown and in LaTeX, whatever characters they hold."""

from __future__ import annotations

import html
import re

from harness.tables.columns import MISSING, visible


def escape(text: str) -> str:
    """Text as itself wherever in Markdown: no markup, link, HTML, new cell, new line or control character."""
    marked = re.sub(r"([\\`*\[\]|~$])", r"\\\1", html.escape(visible(text), quote=False))
    # At the beginning of a line these make headings and lists; GitHub makes links of addresses.
    marked = re.sub(r"^(\d{1,9}(?=[.)](?:\s|$))|(?=[#+=-]))", r"\1\\", marked)
    marked = re.sub(r"(?i)(?<=[a-z]):(?=//)|(?<=\bwww)\.", r"\\\g<0>", marked)
    # An underscore within a word is no markup; elsewhere it may be.
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", marked)


_LATEX_SYMBOLS = {
    MISSING: "--",
    "·": r"\textperiodcentered{}",
    **{char: f"${name}$" for char, name in {"→": r"\rightarrow", "←": r"\leftarrow", "↔": r"\leftrightarrow"}.items()},
    **{char: f"${name}$" for char, name in {"≤": r"\le", "≥": r"\ge", "≈": r"\approx", "±": r"\pm"}.items()},
    **{char: f"${name}$" for char, name in {"−": "-", "×": r"\times", "α": r"\alpha", "β": r"\beta"}.items()},
    "✓": r"$\surd$",
    "✗": r"$\times$",
}
"""What pdfLaTeX knows by another name, without further packages."""

_LATEX_SPECIAL = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **_LATEX_SYMBOLS,
}


def latex(text: str) -> str:
    """Text as itself in LaTeX, but for characters that `visible` leaves out."""
    return "".join(_LATEX_SPECIAL.get(char, char) for char in text)


def latex_symbols(text: str) -> str:
    """Text that is LaTeX already, with the names of characters that pdfLaTeX does not know."""
    return "".join(_LATEX_SYMBOLS.get(char, char) for char in text)
