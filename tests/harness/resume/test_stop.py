"""Being asked to leave, by real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.resume import stop as stopping
from harness.resume.stop import Stop

STEP_S = 1.0
JOB = f"""
import time
from pathlib import Path
from harness.resume.stop import Stop

def step(path):
    stop = Stop()
    with stop.listening(), stop.stepping():
        Path(path, "begun").touch()
        until = time.monotonic() + {STEP_S}
        while time.monotonic() < until:
            time.sleep(0.01)
        Path(path, "kept").touch()
        try:
            stop.check()
        except KeyboardInterrupt:
            return "interrupted"
    return "ok"
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_step_is_finished_though_the_request_comes_twice(number: signal.Signals) -> None:
    stop = Stop()
    with stop.listening():
        with stop.stepping():
            signal.raise_signal(number)
            signal.raise_signal(signal.SIGTERM)
            assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            stop.check()


def test_a_second_request_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "ONE_REQUEST_S", 0.05)
    stop = Stop()
    with stop.listening(), stop.stepping():
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.06)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_outside_of_a_step_the_first_one_does() -> None:
    stop = Stop()
    with stop.listening():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # the same request: what is cleared up meanwhile is not disturbed
    assert stop.requested


def test_a_step_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "GRACE_S", 0.05)
    stop = Stop()
    with stop.listening(), stop.stepping():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            time.sleep(5)


def test_what_the_signals_did_before_they_do_again() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stop().listening():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_to_the_whole_group_lets_a_process_of_its_own_finish_its_step(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    code = (
        "import sys, job\n"
        "from harness.parallel import isolation\n"
        "from harness.resume.stop import Stop\n"
        "if __name__ == '__main__':\n"
        "    with Stop().listening():\n"
        "        print(isolation.apart(job.step, sys.argv[1]))\n"
    )
    (tmp_path / "main.py").write_text(code)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])])
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py"), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == "interrupted\n"
    assert (tmp_path / "kept").exists()
