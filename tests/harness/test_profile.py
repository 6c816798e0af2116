"""`--profile`: traces that TensorBoard's plugin reads, a table of operators, records as they are without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType

from harness import cli, machine, profile
from harness.record import Record
from harness.store import Store
from tasks.mini import scienceqa as mini_scienceqa

Run = Callable[..., int]
STEPS = 6


@pytest.fixture(scope="session")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("problems") / "scienceqa"
    mini_scienceqa.write(root, train=12, val=4, test=4)
    return root


@pytest.fixture
def vltune(tiny_folders: tuple[Path, Path], problems: Path, tmp_path: Path) -> Run:
    """`vltune run` on the tiny backbone: fewer steps than a profile takes."""

    def call(*extra: str, methods: str = "memvp", results: str = "my results") -> int:
        llm, vision = map(str, tiny_folders)
        where = ["--llm", llm, "--vision", vision, "--data-root", str(problems), "--results", str(tmp_path / results)]
        sizes = [
            "--steps",
            str(STEPS),
            "--batch-size",
            "4",
            "--set",
            "train.eval_batch_size=2",
            *(["--set", "memvp.slots=16"] if "memvp" in methods else []),
        ]
        return cli.main(["run", "--methods", methods, "--task", "scienceqa", *where, "--device", "cpu", *sizes, *extra])

    return call


def records(tmp_path: Path, results: str = "my results") -> dict[str, Record]:
    return {record.cell.method: record for record in Store(tmp_path / results).read()}


def predictions(tmp_path: Path, results: str = "my results") -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in (tmp_path / results).rglob("*.predictions.jsonl")}


def saved(tmp_path: Path, results: str) -> dict[str, bytes]:
    return {path.parent.parent.name: path.read_bytes() for path in (tmp_path / results).rglob("*.safetensors")}


def read_back(logdir: Path) -> dict[str, Any]:
    """What TensorBoard's plugin makes of a folder: it looks for traces as the plugin does and parses each."""
    consts = pytest.importorskip("torch_tb_profiler.consts")
    from torch_tb_profiler.profiler.data import RunProfileData
    from torch_tb_profiler.profiler.run_generator import RunGenerator

    found: dict[str, Any] = {}
    for path in (path for path in sorted(logdir.rglob("*")) if path.is_file()):
        worker, span = consts.WORKER_PATTERN.match(path.name).groups()
        data = RunProfileData.parse(worker, span, str(path), str(logdir))
        shown = RunGenerator(worker, span, data).generate_run_profile()
        found[f"{path.relative_to(logdir).parts[-3]}/{worker}"] = SimpleNamespace(
            steps=data.steps_names,
            views={view.display_name for view in shown.views},
            operators={operator.name: operator.calls for operator in data.op_list_groupby_name},
        )
    return found


def test_tensorboard_reads_the_traces(vltune: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vltune("--profile", methods="memvp,frozen") == 0
    found = read_back(tmp_path / "my results" / "profiles")
    assert set(found) == {"memvp/train", "frozen/evaluate"}
    for trace in found.values():
        assert trace.steps == ["7", "8", "9"]
        assert {"Overview", "Operator", "Trace"} <= trace.views
        assert trace.operators["aten::mm"] >= profile.RECORDED
    assert any("Backward" in name for name in found["memvp/train"].operators)
    assert not any("Backward" in name for name in found["frozen/evaluate"].operators)
    out = capsys.readouterr().out
    assert f"memvp on scienceqa, llm+clip, seed 0: profile of 3 training steps -> {tmp_path / 'my results'}" in out
    assert "profile of 3 batches of evaluation -> " in out
    assert f"tensorboard --logdir '{tmp_path / 'my results' / 'profiles'}'" in out
    for block in out.split("Operator  ")[1:]:
        rows = block.splitlines()[2:12]
        assert all(len(row.split()) == 4 for row in rows)
        assert not any(row.startswith(("ProfilerStep", "Optimizer")) for row in rows)
        assert block.splitlines()[12] == ""


def test_a_record_is_what_it_is_without(vltune: Run, tmp_path: Path) -> None:
    assert vltune("--save", methods="frozen,memvp") == 0
    assert vltune("--save", "--profile", methods="frozen,memvp", results="profiled") == 0
    assert predictions(tmp_path) == predictions(tmp_path, "profiled")
    plain, profiled = records(tmp_path), records(tmp_path, "profiled")
    for method, record in profiled.items():
        assert record.metrics == plain[method].metrics
        assert record.cell.options == plain[method].cell.options
        assert record.cell.explicit["profile"] is True
        assert "profile" not in plain[method].cell.explicit
    assert profiled["memvp"].meters["train_step_ms"].n == 1  # type: ignore[union-attr]
    assert profiled["frozen"].meters["eval_peak_bytes"].value  # type: ignore[union-attr]
    for name in ("train_peak_bytes", "eval_peak_bytes"):  # what an earlier profile left in the process is not theirs
        assert "first cell of a run with --profile" in profiled["memvp"].meters[name].reason  # type: ignore[union-attr]
    assert saved(tmp_path, "my results") == saved(tmp_path, "profiled") != {}


def test_what_is_recorded_already_is_run_again(vltune: Run, tmp_path: Path) -> None:
    assert vltune() == 0
    assert not (tmp_path / "my results" / "profiles").exists()
    assert vltune("--profile") == 0
    assert len(Store(tmp_path / "my results").read()) == 2
    assert len(list((tmp_path / "my results" / "profiles").rglob("*.pt.trace.json.gz"))) == 1
    assert vltune() == 0
    assert len(Store(tmp_path / "my results").read()) == 2


def test_a_profile_that_fails_costs_no_record(vltune: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my results").mkdir()
    (tmp_path / "my results" / "profiles").touch()
    assert vltune("--profile", methods="memvp,frozen") == 0
    assert {record.status for record in records(tmp_path).values()} == {"ok"}
    said = [line for line in capsys.readouterr().err.splitlines() if "no profile: " in line]
    assert [line.split(" on ")[0] for line in said] == ["[1/2] memvp", "[2/2] frozen"]


def test_a_device_that_cannot_be_profiled_is_refused(
    vltune: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "resolve_device", lambda name, launch: "cuda:0")
    monkeypatch.setattr(profile, "supported_activities", lambda: {torch.profiler.ProfilerActivity.CPU})
    assert vltune("--profile") == 2
    assert capsys.readouterr().err == (
        "vltune: error: --profile: this build of torch cannot profile cuda; drop --profile or use --device cpu\n"
    )


def event(key: str, cpu: float, gpu: float = 0.0, **changes: Any) -> Any:
    own = {"count": 6, "device_type": DeviceType.CPU, "is_user_annotation": False, **changes}
    return SimpleNamespace(key=key, self_cpu_time_total=cpu, self_device_time_total=gpu, **own)


def test_the_table_on_a_gpu_ranks_by_its_time() -> None:
    kernel = event("gemm_kernel", 0.0, 6000.0, device_type=DeviceType.CUDA)
    step = event("ProfilerStep*", 9000.0, is_user_annotation=True)
    rows = profile.table([event("aten::add", 2000.0), event("aten::mm", 1000.0, 6000.0), kernel, step]).splitlines()
    assert rows[0].split() == ["Operator", "Self", "GPU", "ms", "%", "Self", "CPU", "ms", "%", "Calls"]
    assert [row.split() for row in rows[2:]] == [
        ["aten::mm", "2.000", "100.0", "0.333", "33.3", "2"],
        ["aten::add", "0.000", "0.0", "0.667", "66.7", "2"],
    ]


def test_the_table_stops_at_ten_and_cuts_long_names() -> None:
    rows = profile.table([event(f"{number}" * 99, float(number)) for number in range(10, 30)]).splitlines()[2:]
    assert len(rows) == profile.TOP
    assert rows[0].startswith("2929")
    assert all(len(row.split()[0]) == 60 for row in rows)
