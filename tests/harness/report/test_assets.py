"""What the page may run: its own scripts, by their hashes, and nothing that a script or data could end early."""

from __future__ import annotations

import base64
import hashlib
import json
import re

from harness.report import assets, render
from tests.harness.report.records import make


def test_the_policy_names_exactly_the_scripts_of_the_page() -> None:
    text = render([make(1)], None)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    allowed = policy.replace("&#39;", "'")
    assert len(scripts) == 2
    assert re.findall(r"'sha256-([^']*)'", allowed) == hashes
    assert "default-src 'none'" in allowed
    assert "unsafe-eval" not in allowed


def test_scripts_cannot_end_early() -> None:
    assert assets.in_script("a='</script>';\r\nb='<!--';\r") == "a='<\\/script>';\nb='\\x3c!--';\n"


def test_data_cannot_end_early_and_stays_what_it_was() -> None:
    data = {"</script>": "<!-- & \u2028 \ud800 '"}
    block = assets.data_block(data)
    assert block.isascii()
    assert not set("<>&") & set(block)
    assert json.loads(block) == data
