"""A cell in the process of a node: the run of any isolated cell, on code, data and weights that the driver knows."""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import sys
from pathlib import Path

import pytest

from harness import cli, plan, run
from harness.cluster import child, node
from harness.cluster.job import Job, portable
from harness.parallel import isolation
from harness.store import Store
from tasks import DataError
from tasks.mini import scienceqa as mini_scienceqa


@pytest.fixture
def words(tiny_folders: tuple[Path, Path], tmp_path: Path) -> list[str]:
    mini_scienceqa.write(tmp_path / "data", train=8, val=2, test=8)
    llm, vision = map(str, tiny_folders)
    where = ["--llm", llm, "--vision", vision, "--data-root", str(tmp_path / "data")]
    size = ["--steps", "2", "--batch-size", "4", "--device", "cpu"]
    return ["run", "--methods", "lora", "--task", "scienceqa", *size, *where, "--results", str(tmp_path / "driver")]


@pytest.fixture
def job(words: list[str]) -> Job:
    args = cli.parser().parse_args(words)
    args.argv = tuple(words)
    planned = portable(plan.build(args))
    bench, [ready] = run._prepared(dataclasses.replace(planned, isolate=True))
    alone = bench.plan.alone(planned.cells[0])
    return Job(alone, ready, "[1/1]", bench.data["scienceqa"].sha256, bench.weights_sha256)


def test_the_record_is_that_of_a_local_run(job: Job, words: list[str], tmp_path: Path) -> None:
    child.execute(job, tmp_path / "node")
    assert cli.main(words) == 0
    [there], [here] = Store(tmp_path / "node").read(), Store(tmp_path / "driver").read()
    assert there.cell == here.cell
    assert there.metrics == here.metrics
    assert there.predictions is not None
    assert here.predictions is not None
    assert there.predictions.sha256 == here.predictions.sha256
    assert there.provenance["isolated"]


def test_other_code_is_refused(job: Job, tmp_path: Path) -> None:
    sources = job.ready.code["sources"] | {"tasks": "0" * 64}
    other = dataclasses.replace(job.ready, code=job.ready.code | {"sources": sources})
    with pytest.raises(child.NodeError, match=r"other code than the driver \(tasks\): install the same version"):
        child.execute(dataclasses.replace(job, ready=other), tmp_path / "node")


def test_other_data_and_weights_are_refused(job: Job, tmp_path: Path) -> None:
    with pytest.raises(child.NodeError, match="data on this node holds other data than on the driver"):
        child.execute(dataclasses.replace(job, data_sha256="0" * 64), tmp_path / "node")
    with pytest.raises(child.NodeError, match="on this node holds other weights than on the driver"):
        child.execute(dataclasses.replace(job, weights_sha256="0" * 64), tmp_path / "node")


def test_data_that_are_not_there_are_named(job: Job, tmp_path: Path) -> None:
    lost = dataclasses.replace(job, plan=dataclasses.replace(job.plan, data_root=tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere"):
        child.execute(lost, tmp_path / "node")


def test_paths_are_made_absolute_and_names_are_kept(
    job: Job, tiny_folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("llm").symlink_to(tiny_folders[0])
    spec = dataclasses.replace(job.plan.backbone, llm="llm", vision="openai/clip")
    moved = portable(dataclasses.replace(job.plan, backbone=spec, data_root=Path("data")))
    assert (moved.backbone.llm, moved.backbone.vision) == (str(tmp_path / "llm"), "openai/clip")
    assert moved.data_root == tmp_path / "data"


@pytest.mark.parametrize(("parent", "code"), [(os.getppid(), 0), (1 << 30, 1)])
def test_what_cannot_be_run_is_told_to_the_parent_if_it_is_there(
    parent: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "leave_with_the_parent", lambda: None)
    monkeypatch.setattr(sys, "argv", ["child", str(tmp_path), str(parent)])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(pickle.dumps("no job"))))
    assert child.main() == code
    reasons = [path.read_text() for path in tmp_path.glob(node.REASON)]
    assert reasons == ([] if code else ["AttributeError: 'str' object has no attribute 'plan'"])
