"""The task of one cell, without a cluster: its lines and its end, whatever becomes of its process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.cluster import node
from harness.cluster.parcel import Ended, Line, Message, Piece

pytest.importorskip("ray")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where folders of cells are made."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def run(code: str, monkeypatch: pytest.MonkeyPatch, job: bytes = b"") -> list[Message]:
    """A cell whose process runs this code."""

    def start(folder: Path, threads: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", code, str(folder)]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, process_group=0)

    monkeypatch.setattr(node, "_start", start)
    return list(node.run_cell(job, 1, "/the results"))


def test_lines_and_files_are_sent_as_the_process_leaves_them(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    code = (
        "import pathlib, sys\n"
        "path = pathlib.Path(sys.argv[1], 'runs/a/b/c/x.json')\n"
        "path.parent.mkdir(parents=True)\n"
        "path.write_bytes(sys.stdin.buffer.read())\n"
        "print(f'done -> {path}')\n"
        "print('a warning', file=sys.stderr)"
    )
    first, *others = run(code, monkeypatch, job=b"{}" * 100_000)
    assert isinstance(first, Line)
    assert first.text.startswith("begun on ")
    assert first.text.endswith(" with 1 thread")
    lines, rest = others[:2], others[2:]
    assert {line.text for line in lines if isinstance(line, Line)} == {
        "done -> /the results/runs/a/b/c/x.json",
        "a warning",
    }
    assert rest == [
        Piece("runs/a/b/c/x.json", b"{}" * 100_000),
        Ended(None),
    ]
    assert list(temporary.iterdir()) == []


def test_a_process_that_is_killed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = run("import os; os.kill(os.getpid(), 9)", monkeypatch, job=b"x" * 10**6)
    reason = "the process of this run ended: it was ended by SIGKILL, as when memory runs out"
    assert killed[1:] == [Ended(reason)]


def test_a_process_that_breaks_shows_why(monkeypatch: pytest.MonkeyPatch) -> None:
    *said, end = run("raise SystemExit('no libfoo.so')", monkeypatch)
    assert Line("no libfoo.so") in said
    assert end == Ended("the process of this run ended: it ended with exit code 1")


def test_whoever_stops_listening_ends_the_process(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start(folder: Path, threads: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, process_group=0))
        return started[0]

    monkeypatch.setattr(node, "_start", start)
    messages = node.run_cell(b"", 1, "/the results")
    assert [next(messages), next(messages)][1] == Line("1")
    messages.close()  # type: ignore[attr-defined]
    assert started[0].poll() == -9
    assert list(temporary.iterdir()) == []


def test_the_reason_that_a_process_gives_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"import pathlib, sys; pathlib.Path(sys.argv[1], {node.REASON!r}).write_text('no data')"
    assert run(code, monkeypatch)[1:] == [Ended("no data")]


def test_the_code_of_this_machine() -> None:
    found = node.sources()
    assert found.keys() == {"harness", "methods", "tasks"}
    assert len(set(found.values())) == 3
