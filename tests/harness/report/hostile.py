"""Records whose every text tries to get out of its place in the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.record import MetricValue
from harness.store import Store
from tests.harness.report.records import make

HOSTILE = (
    "</script></title><script>window.pwned=1</script><img src=x onerror='window.pwned=2'>"
    '"\'><svg onload=window.pwned=3><!-- {{ 7 * 7 }} <a href="javascript:window.pwned=4">x</a> '
    "\u2028\u2029\u202e\x1b[31m%{x} <b>bold</b> &lt;i&gt; $x^2$ | `x`"
)


def hostile_folder(root: Path, hostile: bool) -> Path:
    """A results folder of three runs; the same with harmless text has the same shape."""
    text = HOSTILE if hostile else "harmless"
    store = Store(root)
    for number, (method, status) in enumerate([("a", "ok"), ("b", "ok"), ("c", "failed")]):
        record = make(
            number,
            method=f"{method} {text}",
            task=f"task {text}",
            backbone=text,
            status=status,
            reason=text if status == "failed" else None,
            settings={text: text, "list": [text]},
            run={"path": text},
            provenance={"argv": ["run", text], "cpu": {"model": text, "threads": 2}, text: text},
        )
        lines: list[dict[str, Any]] = [
            {"id": f"{id} {text}", "output": text, "cider": 50.0, "score": 50.0, "group": f"{id} {text}"}
            for id in range(60)
        ]
        if status == "ok":
            odd = MetricValue(value=None, unit=text, goal="max", n=3, reason=text)
            record = record.model_copy(update={"metrics": {**record.metrics, f"score {text}": odd}})
        else:
            record = record.model_copy(update={"traceback": text})
        losses = {"train_loss": [2.0, 1.0]} if status == "ok" else None
        store.append(record, lines if status == "ok" else None, samples=losses)
    return root
