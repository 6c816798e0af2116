"""One matrix over several processes on one machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import cli, plan, run, workbench
from harness.parallel import spread
from harness.resume.claims import Claim, Claims
from harness.store import Store
from tasks.mini import scienceqa as mini_scienceqa
from tests.waiting import wait


def test_a_worker_gets_the_command_without_what_spreads_it() -> None:
    given = ["run", "--gpus", "0,1", "--methods", "lora", "--workers=3", "--seeds", "0"]
    assert spread.command(given)[1:] == ["-m", "harness", "run", "--methods", "lora", "--seeds", "0", "--worker"]


def test_each_gpu_has_a_worker_that_sees_no_other() -> None:
    team = spread.workers([2, 0], None, 8, {})
    assert [worker.environment for worker in team] == [{"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "0"}]
    ours = spread.workers([1, 0], None, 8, {"CUDA_VISIBLE_DEVICES": "4, GPU-5a"})
    assert [worker.environment for worker in ours] == [
        {"CUDA_VISIBLE_DEVICES": "GPU-5a"},
        {"CUDA_VISIBLE_DEVICES": "4"},
    ], "numbers count what this process was given"
    assert [worker.environment for worker in spread.workers([], 3, 8)] == [{"OMP_NUM_THREADS": "2"}] * 3


def script(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_lines_are_passed_on_and_the_worst_ending_counts() -> None:
    said: list[str] = []
    team = spread.workers([], 2, 2)
    assert spread.spread(team, script("print('hello')"), said.append) == 0
    assert sorted(said) == ["[worker 0] hello", "[worker 1] hello"]
    assert spread.spread(spread.workers([], 2, 2), script("raise SystemExit(1)"), said.append) == 1
    assert spread.spread(spread.workers([], 1, 2), script("raise SystemExit(130)"), said.append) == 130


def test_a_worker_that_is_killed_is_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    mark = tmp_path / "mark"
    code = f"import os, pathlib; m = pathlib.Path({str(mark)!r})\nif not m.exists(): m.touch(); os.kill(os.getpid(), 9)"
    assert spread.spread(spread.workers([], 1, 1), script(code), said.append) == 0
    assert said == ["[worker 0] was ended by SIGKILL"]
    always = spread.workers([], 1, 1)
    assert spread.spread(always, script("import os; os.kill(os.getpid(), 9)"), said.append) == 1
    assert always[0].codes == [-9] * spread.MOST_STARTS


def test_a_worker_that_starts_just_then_is_told_to_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen

    def popen(*words: object, **options: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)  # until the main thread has heard of it, which knows of no process yet
        return real(*words, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", popen)
    [worker] = team = spread.workers([], 1, 1)
    assert spread.spread(team, script("import time; time.sleep(60)"), lambda line: None) == 130
    assert worker.codes == [-signal.SIGTERM]


def test_a_worker_that_was_only_starting_counts_as_interrupted() -> None:
    code = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    assert spread.spread(spread.workers([], 1, 1), script(code), lambda line: None) == 130


def test_workers_leave_when_nobody_reads_their_lines() -> None:
    def say(line: str) -> None:
        raise BrokenPipeError

    code = "import os, time\nif os.environ['OMP_NUM_THREADS']: print(1, flush=True)\ntime.sleep(60)"
    silent, talking = spread.Worker("a", {"OMP_NUM_THREADS": ""}), spread.Worker("b", {"OMP_NUM_THREADS": "1"})
    with pytest.raises(BrokenPipeError):
        spread.spread([silent, talking], script(code), say)
    assert talking.codes == [-signal.SIGTERM]
    assert silent.codes in ([-signal.SIGTERM], []), "it may not have been started yet"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_workers_leave_when_the_parent_is_killed(tiny_folders: tuple[Path, Path], tmp_path: Path) -> None:
    mini_scienceqa.write(tmp_path / "data", seed=0, train=16, val=2, test=8)
    words = [sys.executable, "-m", "harness", *arguments(tiny_folders, tmp_path, "results"), "--workers", "1"]
    words[words.index("--steps") + 1] = "100000"
    parent = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert parent.stdout is not None
        for line in parent.stdout:
            if line.startswith("[worker 0] 6 cells on"):
                break
        [worker] = children(parent.pid)
    finally:
        parent.kill()
        parent.communicate()
    try:
        # After half a minute its next line would fail, and end it too.
        wait(lambda: not runs(worker), "the worker has left", longest_s=20)
    finally:
        if runs(worker):
            os.kill(worker, signal.SIGKILL)


def runs(pid: int) -> bool:
    """Whether a process has not ended; of one that nobody waits for there stays a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    return [int(n) for task in Path(f"/proc/{pid}/task").iterdir() for n in (task / "children").read_text().split()]


@pytest.mark.slow
def test_a_cell_that_fails_is_run_once_and_one_of_another_process_is_waited_for(
    tiny_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    mini_scienceqa.write(tmp_path / "data", seed=0, train=16, val=2, test=8)
    words = [*arguments(tiny_folders, tmp_path, "results"), "--set", "train.lr=1e30"]
    args = cli.parse(words)
    args.argv = tuple(words)
    bench, _ = run._prepared(plan.build(args))
    elsewhere = Claims(tmp_path / "results").take(workbench.key(bench, bench.plan.cells[-1]))
    assert isinstance(elsewhere, Claim)
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", *words, "--workers", "2"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    while said.count("left to process") < 2 or len(Store(tmp_path / "results").read()) < 5:
        said += (line := process.stdout.readline())
        assert line, said
    elsewhere.release()
    said += process.communicate(timeout=100)[0]
    assert process.returncode == 1, said
    found = [(record.cell.method, record.cell.seed, record.status) for record in Store(tmp_path / "results").read()]
    assert sorted(found) == sorted(
        (method, seed, status)
        for method, status in (("lora", "failed"), ("llava", "failed"), ("frozen", "ok"))
        for seed in (0, 1)
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gpus", "0,x"], "must be different GPU numbers"),
        (["--gpus", "1,1"], "must be different GPU numbers"),
        (["--gpus", "0", "--workers", "2"], "not allowed with"),
        (["--workers", "2", "--fresh"], "--fresh: each worker"),
        (["--gpus", "0", "--device", "cpu"], "--gpus: each run has the GPU"),
        (["--gpus", "99"], "--gpus 99: this machine has"),
    ],
)
def test_mistakes_are_told_at_once(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--methods", "frozen", "--task", "scienceqa", "--results", str(tmp_path), *flags]
    try:
        code = cli.main(words)
    except SystemExit as error:
        code = int(error.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err


def arguments(folders: tuple[Path, Path], root: Path, results: str) -> list[str]:
    llm, vision = map(str, folders)
    where = ["--llm", llm, "--vision", vision, "--data-root", str(root / "data"), "--results", str(root / results)]
    size = ["--steps", "4", "--batch-size", "4", "--device", "cpu", "--seeds", "0,1"]
    return ["run", "--methods", "lora,llava,frozen", "--task", "scienceqa", *size, *where]


@pytest.mark.slow
def test_workers_share_a_matrix(tiny_folders: tuple[Path, Path], tmp_path: Path) -> None:
    mini_scienceqa.write(tmp_path / "data", seed=0, train=16, val=2, test=8)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "harness", *arguments(tiny_folders, tmp_path, "apart"), "--workers", "2"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"^\[worker (\d)\]", done.stdout, re.MULTILINE)) == {"0", "1"}
    assert done.stdout.count("| Method") == 1, "one table, by the parent"
    assert cli.main(arguments(tiny_folders, tmp_path, "here")) == 0
    apart, here = (
        {(record.cell.method, record.cell.seed): record for record in Store(tmp_path / name).read()}
        for name in ("apart", "here")
    )
    assert len(Store(tmp_path / "apart").read()) == 6
    assert {key: record.metrics for key, record in apart.items()} == {
        key: record.metrics for key, record in here.items()
    }


@pytest.mark.slow
def test_workers_leave_when_the_parent_is_asked_to(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "from harness.parallel import spread\n"
        "words = [sys.executable, '-c', 'import signal, time\\nsignal.signal(15, lambda *_: exit(130))\\n"
        "print(1, flush=True)\\ntime.sleep(60)']\n"
        "sys.exit(spread.spread(spread.workers([], 2, 2), words, lambda line: print(line, flush=True)))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    assert all("1" in line for line in lines)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 130
