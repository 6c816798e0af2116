"""The driver on a real cluster of two nodes: the records of the local executor, whatever its nodes do or suffer."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import cli, provenance
from harness.cluster import node
from harness.cluster.parcel import Ended, Line, Message, Piece
from harness.record import Record, cell_key
from harness.results_check import check
from harness.resume.claims import Claim, Claims
from harness.store import Store, StoreError
from tasks.mini import scienceqa as mini_scienceqa
from tests.two_nodes import NODES, TwoNodes
from tests.waiting import wait

pytest.importorskip("ray")
from harness.cluster import matrix

METHODS = ("lora", "llava")
Run = Callable[..., int]


@pytest.fixture(scope="module")
def words(tiny_folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command but for its executor: steps enough that a node can be killed in the middle of them."""
    root = tmp_path_factory.mktemp("data with spaces")
    mini_scienceqa.write(root, seed=0, train=16, val=2, test=8)
    llm, vision = map(str, tiny_folders)
    where = ["--llm", llm, "--vision", vision, "--data-root", str(root), "--device", "cpu"]
    size = ["--steps", "40", "--batch-size", "4", "--save", "--tensorboard"]
    return ["run", "--methods", ",".join(METHODS), "--task", "scienceqa", *size, *where]


class Driver:
    """The command in a process of its own, whose lines are kept as they come."""

    def __init__(self, words: list[str]) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "harness", *words],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            self.lines.extend(line.rstrip() for line in lines)

    def said(self, words: str) -> list[str]:
        assert self.process.poll() is None, "\n".join(self.lines)
        return [line for line in self.lines if words in line]

    def end(self) -> tuple[int, str]:
        code = self.process.wait(240)
        self._reader.join()
        return code, "\n".join(self.lines)


@pytest.fixture
def drive(cluster: TwoNodes, words: list[str]) -> Iterator[Callable[..., Driver]]:
    """Start the command on the cluster with this results folder, and more flags."""
    started: list[Driver] = []

    def start(results: Path, *more: str) -> Driver:
        where = ["--results", str(results), "--executor", "ray", "--ray-address", cluster.address]
        started.append(Driver([*words, *where, *more]))
        return started[0]

    yield start
    for driver in started:
        driver.process.kill()
        driver.end()


def records(root: Path) -> dict[str, Record]:
    found = Store(root).read()
    assert len({record.cell.method for record in found}) == len(found), "a cell was recorded twice"
    return {record.cell.method: record for record in found}


@pytest.fixture
def local(words: list[str], tmp_path: Path) -> Path:
    """What the local executor makes of it with as many threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert cli.main([*words, "--results", str(tmp_path / "local")]) == 0
    finally:
        torch.set_num_threads(threads)
    return tmp_path / "local"


@pytest.mark.slow
def test_a_killed_node_costs_no_record(
    cluster: TwoNodes, drive: Callable[..., Driver], local: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results with spaces"
    # One of the cells was begun on this machine alone, and interrupted.
    begun = results / "unfinished" / cell_key(records(local)["lora"].cell)
    (begun / "training-00000001").mkdir(parents=True)
    driver = drive(results)
    events = "tensorboard/**/events*"
    wait(lambda: sum(bool(list(cell.glob(events))) for cell in cluster.cells()) == 2, "two cells train side by side")
    cluster.kill(NODES[1])
    code, said = driver.end()
    assert code == 0, said
    hosts = re.findall(r"begun on .* \((127[\d.]+)\)", said)
    assert len(hosts) == 3, said
    assert set(hosts[:2]) == set(NODES)
    assert hosts[2] == NODES[0]
    assert said.count("; started again") == 1, said
    here, there = records(local), records(results)
    assert there.keys() == here.keys() == set(METHODS)
    for method, record in there.items():
        other = here[method]
        assert record.cell == other.cell
        assert record.metrics == other.metrics
        assert record.predictions is not None
        assert other.predictions is not None
        assert record.predictions.sha256 == other.predictions.sha256
        losses = [
            (Store(root).samples(one) or {}).get("train_loss") for root, one in ((results, record), (local, other))
        ]
        assert losses[0] == losses[1]
        assert record.provenance["cpu"]["threads"] == 1
    assert check(results) == []
    assert sorted(path.name for path in results.iterdir()) == [
        "adapters",
        "claims",
        "runs",
        "tensorboard",
        "unfinished",
    ]
    assert list((results / "unfinished").iterdir()) == []
    assert list((results / "claims").iterdir()) == []
    saved = [
        {path.relative_to(root).parts[1:4] for path in root.glob("adapters/**/*.safetensors")}
        for root in (results, local)
    ]
    assert saved[0] == saved[1] != set()


@pytest.mark.slow
def test_ctrl_c_leaves_no_cell_behind(cluster: TwoNodes, drive: Callable[..., Driver], tmp_path: Path) -> None:
    driver = drive(tmp_path, "--steps", "100000")  # which take longer than anything here is waited for
    wait(lambda: len(driver.said("begun on")) == 2, "two cells run side by side")
    driver.process.send_signal(signal.SIGINT)
    code, said = driver.end()
    assert code == 130, said
    assert "2 of 2 cells not done: the same command goes on with what is left" in said
    assert records(tmp_path) == {}
    wait(lambda: not cluster.cells(), "the folders of the cells are removed")


@pytest.fixture
def vltune(cluster: TwoNodes, tiny_folders: tuple[Path, Path], tmp_path: Path) -> Run:
    """`vltune run` on the cluster; what its nodes do is given."""
    mini_scienceqa.write(tmp_path / "data", train=8, val=2, test=4)

    def call(*more: str, methods: str = "lora") -> int:
        llm, vision = map(str, tiny_folders)
        where = ["--llm", llm, "--vision", vision, "--data-root", str(tmp_path / "data"), "--device", "cpu"]
        where += ["--results", str(tmp_path / "results"), "--executor", "ray", "--ray-address", cluster.address]
        return cli.main(["run", "--methods", methods, "--task", "scienceqa", "--steps", "2", *where, *more])

    return call


def behave(monkeypatch: pytest.MonkeyPatch, messages: Callable[[int], Iterator[Message]]) -> None:
    """Let nodes do this in place of running a cell; it is told how many threads it has."""

    def run_cell(job: bytes, threads: int, results: str) -> Iterator[Message]:
        yield from messages(threads)

    monkeypatch.setattr(node, "run_cell", run_cell)


def reasons(tmp_path: Path) -> dict[str, str | None]:
    return {record.cell.method: record.reason for record in Store(tmp_path / "results").read()}


@pytest.mark.slow
def test_a_cell_that_is_lost_every_time_is_given_up(
    vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def messages(threads: int) -> Iterator[Message]:
        yield Line("begun")
        time.sleep(0.5)  # until it is heard
        os.kill(os.getpid(), 9)

    behave(monkeypatch, messages)
    assert vltune() == 1
    said = capsys.readouterr().out
    assert said.count("lora on scienceqa, llm+clip, seed 0: begun") == 3
    assert said.count("; started again") == 2
    assert "its node, or its process there, was lost 3 times, last: " in str(reasons(tmp_path)["lora"])


@pytest.mark.slow
def test_what_no_node_should_send_costs_the_cell_alone(
    vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def messages(threads: int) -> Iterator[Message]:
        yield Piece("runs/a/b/c/../../../../x.json", b"{}")
        yield Ended(None)

    behave(monkeypatch, messages)
    assert vltune(methods="lora,frozen") == 1
    assert all("a node sent a file by the name" in str(reason) for reason in reasons(tmp_path).values())
    assert len(reasons(tmp_path)) == 2


@pytest.mark.slow
def test_an_error_of_the_node_itself_is_recorded_at_once(
    vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def messages(threads: int) -> Iterator[Message]:
        yield Line(f"{threads}")
        raise OSError(28, "No space left on device")

    behave(monkeypatch, messages)
    assert vltune() == 1
    reason = "it could not be run on its node: OSError: [Errno 28] No space left on device"
    assert reasons(tmp_path) == {"lora": reason}


@pytest.mark.slow
def test_a_failure_that_the_node_tells_is_the_reason(
    vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behave(monkeypatch, lambda threads: iter([Ended(f"no data for {threads} thread")]))
    assert vltune() == 1
    assert reasons(tmp_path) == {"lora": "no data for 1 thread"}


@pytest.mark.slow
def test_a_cell_sees_the_gpu_that_it_was_given(vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behave(monkeypatch, lambda threads: iter([Ended(f"GPU {os.environ['CUDA_VISIBLE_DEVICES']}")]))
    assert vltune("--device", "cuda:0", methods="lora,frozen") == 1
    assert set(reasons(tmp_path).values()) == {"GPU 0"}
    assert {record.provenance["device"] for record in Store(tmp_path / "results").read()} == {"cuda:0"}


@pytest.mark.slow
def test_a_cell_of_another_process_is_left_to_it(
    vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, tried = Claims.take, []

    def take(self: Claims, key: str) -> Claim | dict[str, Any]:
        tried.append(time.monotonic())
        return {"pid": 7, "host": "far"} if len(tried) < 3 else real(self, key)

    monkeypatch.setattr(Claims, "take", take)
    monkeypatch.setattr(matrix, "WAIT_S", 0.1)
    behave(monkeypatch, lambda threads: iter([Ended("ours now")]))
    assert vltune() == 1
    assert capsys.readouterr().out.count("left to process 7 on far, which runs it") == 1
    assert reasons(tmp_path) == {"lora": "ours now"}


@pytest.mark.slow
def test_a_node_with_other_code_is_named_before_any_run(
    vltune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = provenance.hash_files
    # The hash of this process alone.
    monkeypatch.setattr(provenance, "hash_files", lambda paths: f"{real(paths)[:-1]}x")
    assert vltune() == 2
    message = "node 127.0.0.3 has other code than this machine (methods, tasks, harness); install the same version"
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_demand_that_no_node_meets_is_told(vltune: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert vltune("--cpus-per-cell", "99") == 2
    assert "--executor ray: no node has 99 cores for a cell (127.0.0." in capsys.readouterr().err


@pytest.mark.slow
def test_a_record_that_cannot_be_written_ends_the_matrix(
    vltune: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def append(*_: object, **__: object) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr(Store, "append", append)
    behave(monkeypatch, lambda threads: iter([Ended("anything")]))
    assert vltune(methods="lora,frozen") == 2
    assert capsys.readouterr().err == "vltune: error: disk full\n"
