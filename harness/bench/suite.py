"""What `bench` runs, prints and writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

import harness
import methods
from harness import provenance
from harness.bench import decode, memory_read, overhead, step, upkeep
from harness.bench.result import Case, markdown
from harness.settings import UsageError

SUITES = ("memory-read", "step", "decode", "upkeep")


def run(names: Sequence[str], *, device: str, reduced: bool, out: Path | None, argv: Sequence[str]) -> None:
    """Measure, print the tables as they come, and write everything as one JSON document.

    Raises:
        BenchError: an implementation is wrong.
        UsageError: `out` cannot be written; found before anything is measured.
    """
    if out is not None:
        _check_writable(out)
    started, where = datetime.now(UTC), torch.device(device)
    code = provenance.code(
        {"kernels": Path(methods.__file__).parent / "kernels", "harness": Path(harness.__file__).parent}
    )
    cases: dict[str, list[Case]] = {}
    if reduced:
        print("Reduced sizes: they check the code and say nothing about its speed.\n")
    for name in names:
        cases[name] = _MEASURE[name](where, reduced)
        print("\n\n".join(markdown(case) for case in cases[name]), end="\n\n", flush=True)
    if out is None:
        return
    document = {
        "schema": 1,
        "reduced": reduced,
        "cases": {name: [case.to_json() for case in found] for name, found in cases.items()},
        "provenance": provenance.collect(
            argv=argv,
            device=device,
            precision="named by each case",
            kernels="named by each row",
            isolated=False,
            data={},
            weights={"weights": "random, but for mini"},
            code=code,
            started=started,
            ended=datetime.now(UTC),
        ),
    }
    out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(out)


def _memory_read(device: torch.device, reduced: bool) -> list[Case]:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return memory_read.run(device, dtype=dtype, reduced=reduced)


def _step(device: torch.device, reduced: bool) -> list[Case]:
    return [*step.run(device, reduced=reduced), overhead.run(device, reduced=reduced)]


def _decode(device: torch.device, reduced: bool) -> list[Case]:
    return decode.run(device, reduced=reduced)


def _upkeep(device: torch.device, reduced: bool) -> list[Case]:
    return upkeep.run(device, reduced=reduced)


_MEASURE: dict[str, Callable[[torch.device, bool], list[Case]]] = {
    "memory-read": _memory_read,
    "step": _step,
    "decode": _decode,
    "upkeep": _upkeep,
}


def _check_writable(out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.touch()
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written ({error.strerror}); name another file") from None
