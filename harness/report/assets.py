"""What the page is made of besides data: scripts, styles, and the policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def filled(template: str, scripts: Sequence[str], data: Any, **content: Any) -> str:
    """A page as the text of an HTML file that needs no other.

    Args:
        template: its file in templates/.
        scripts: names of its own scripts in static/, in the order in which they run.
        data: what these read; see `data_block`.
        content: what the template shows; all of it is escaped.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    parts = [plotly_script(), own_script(scripts)]
    return environment.get_template(template).render(
        styles=(FOLDER / "static" / "report.css").read_text(encoding="utf-8"),
        scripts=parts,
        policy=policy(parts),
        data=data_block(data),
        **content,
    )


def own_script(names: Sequence[str]) -> str:
    """Some of the pages' own scripts as one."""
    parts = [(FOLDER / "static" / f"{name}.js").read_text(encoding="utf-8") for name in names]
    return in_script('"use strict";\n' + "\n".join(parts))


def plotly_script() -> str:
    """plotly.js as its Python package ships it."""
    from plotly.offline import get_plotlyjs

    return in_script(get_plotlyjs())


def in_script(source: str) -> str:
    """A script that cannot end its element early; line ends as the HTML parser leaves them.

    Both escapes mean the same text within strings and patterns, the only places where scripts have these words.
    """
    lines = source.replace("\r\n", "\n").replace("\r", "\n")
    return lines.replace("</script", "<\\/script").replace("<!--", "\\x3c!--")


def policy(scripts: list[str]) -> str:
    """The content security policy: exactly these inline scripts, no connection, no other source.

    plotly.js sets inline styles, so these are allowed; all text is escaped, so no style can come from a record.
    """
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def data_block(data: Any) -> str:
    """JSON for a `<script type="application/json">`: ASCII, and without any character that HTML knows."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
