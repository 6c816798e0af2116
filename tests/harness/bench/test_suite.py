"""`harness bench`: runs everything at a tiny size, writes it down, and reports no speed of what is wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness import cli
from harness.bench import memory_read as bench_memory_read
from harness.bench import naive
from harness.bench.ceiling import Ceiling
from harness.bench.result import BenchError, Case, at_least, below, markdown, rows
from harness.bench.timing import alternate

CPU = torch.device("cpu")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.mark.slow
def test_all_of_it_runs_and_is_written_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "with space" / "bench.json"
    assert cli.main(["bench", "all", "--device", "cpu", "--reduced", "--out", str(out)]) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert set(found["cases"]) == {"memory-read", "step", "decode", "upkeep"}
    assert found["reduced"] is True
    assert found["provenance"]["device"] == "cpu"
    adem = found["cases"]["memory-read"][0]
    names = [row["name"] for row in adem["rows"]]
    assert names == ["naive", "reference", *(["triton"] if INTERPRETED else [])]
    assert all(row["ms"]["p20"] <= row["ms"]["median"] <= row["ms"]["p80"] for row in adem["rows"])
    assert all(row["of_roofline"] > 0 for row in adem["rows"])
    assert adem["work"]["flops"] == 12 * 2 * 33 * 20 * 48
    printed = capsys.readouterr().out
    for title in (
        "memory_read, adem",
        "training step of ADEM-VL",
        "choice likelihood",
        "own share",
        "greedy decoding",
        "claims",
    ):
        assert title in printed
    assert "| naive" in printed
    assert "kernels triton" in printed if INTERPRETED else "kernels reference" in printed
    if not INTERPRETED:
        assert "triton: Triton " in printed


def test_a_wrong_implementation_gets_no_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(x: Tensor, keys: Tensor, values: Tensor, drop_ratio: float) -> Tensor:
        return 1.01 * right(x, keys, values, drop_ratio)

    right = naive.read_adem
    monkeypatch.setattr(naive, "read_adem", wrong)
    assert cli.main(["bench", "memory-read", "--device", "cpu", "--reduced"]) == 1
    captured = capsys.readouterr()
    assert "wrong result, so no speed is reported: adem by naive: output is off by" in captured.err
    assert "median" not in captured.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench"], "required: memory-read|step|decode|upkeep|all"),
        (["bench", "steps"], "invalid choice: 'steps'"),
        (["bench", "all", "--device", "cuda:77"], "--device cuda:77"),
        (
            ["bench", "step", "--device", "cpu", "--out", "/proc/none/x.json"],
            "--out /proc/none/x.json: cannot be written",
        ),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_rivals_take_turns() -> None:
    order: list[str] = []
    timings = alternate(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, device=CPU, rounds=3, calls=2, warm_up=1
    )
    assert order == ["a", "a", "b", "b"] * 4
    assert timings["a"].ms.n == 3


def test_the_roofline_is_the_binding_limit() -> None:
    limits = Ceiling(copy_bytes_per_s=1e9, matmul_flops_per_s=1e12)
    assert limits.roofline_ms(flops=1e9, moved_bytes=1e6) == pytest.approx(1.0)
    assert limits.roofline_ms(flops=1e9, moved_bytes=5e6) == pytest.approx(5.0)


def test_a_table_says_what_was_wanted_and_what_was_not_met() -> None:
    timings = alternate({"slow": lambda: None, "quick": lambda: None}, device=CPU, rounds=2)
    goals = [at_least("quick against slow", 1.5, 1.8), below("share", 2.0, 3, "%")]
    text = markdown(Case("a case", {"B": 2}, rows(timings), goals, ["a note"]))
    assert "### a case" in text
    assert "| at least 1.8 x |" in text
    assert text.count("| no ") == 1
    assert text.count("| yes ") == 1
    assert text.endswith("- a note")


def test_the_error_rule_refuses_twice_the_error() -> None:
    size = bench_memory_read.SIZES["reduced"]
    given = bench_memory_read.inputs(size, CPU, torch.float32)
    reads, _ = bench_memory_read.implementations("memvp", given, reduced=True)
    bench_memory_read._check("naive", reads["naive"], reads["reference"], given, "memvp")
    with pytest.raises(BenchError, match="grad of x is off"):
        bench_memory_read._check(
            "bent",
            lambda x, k, v: reads["naive"](x * 1.0 + 0 * x, k, v) + (x - x.detach()),
            reads["reference"],
            given,
            "memvp",
        )
