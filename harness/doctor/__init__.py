"""`doctor`: what this machine can run, with the fix for what is missing.

Only metadata is read of packages that no answer depends on; torch alone is imported, where it is installed. Nothing is
written: the writing trials leave no file, and no folder is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness.doctor import machine, packages
from harness.doctor.packages import Answer, State


@dataclass(frozen=True)
class Finding:
    """One thing that runs may use. `needed`: without it not even `run` with its defaults works."""

    name: str
    state: State
    detail: str
    fix: str = ""
    needed: bool = False

    def __str__(self) -> str:
        fix = f"; fix: {self.fix}" if self.fix else ""
        return " ".join(f"{self.state:<8} {self.name:<18} {self.detail}{fix}".splitlines())


def examine(*, results: Path = Path("results"), cache: Path | None = None) -> list[Finding]:
    """Look at everything, in the order of the report.

    Args:
        results: the results folder that would be written to.
        cache: the cache folder; the user's by default.
    """
    torch, failure = packages.import_torch()
    checks: list[tuple[str, bool, Callable[[], Answer]]] = [
        ("Python", True, packages.python),
        ("vltune", False, packages.vltune),
        ("torch", True, partial(packages.torch_build, torch, failure)),
        *((name, True, partial(packages.package, name)) for name in packages.NAMED[1:]),
        ("other packages", True, packages.others),
        ("backbone mini", True, packages.mini),
        ("CUDA device", False, partial(machine.cuda, torch)),
        ("bf16", False, partial(machine.bf16, torch)),
        ("Triton kernels", False, partial(machine.triton, torch)),
        ("NVML", False, machine.nvml),
        ("C++ compiler", False, machine.compiler),
        ("Java", False, packages.java),
        ("pycocoevalcap", False, partial(packages.package, "pycocoevalcap", "captions")),
        ("SPICE models", False, packages.spice),
        *((f"extra {name}", False, partial(packages.extra, name, cache)) for name in packages.EXTRAS),
        ("cache folder", True, partial(machine.cache_folder, cache)),
        ("results folder", True, partial(machine.results_folder, results)),
        ("RAM", False, machine.ram),
        ("CPU", False, partial(machine.cpu, torch)),
        ("Hugging Face", False, machine.hub),
    ]
    return [_finding(name, needed, check) for name, needed, check in checks]


def lacking(findings: Sequence[Finding]) -> list[str]:
    """Names of what `run` with its defaults (backbone mini, no caption scores) needs and does not have."""
    return [finding.name for finding in findings if finding.needed and finding.state == "missing"]


def report(findings: Sequence[Finding]) -> str:
    """A line for each finding, and one that says whether `run` with its defaults works."""
    lost = lacking(findings)
    verdict = f"cannot work here: see {', '.join(lost)}" if lost else "has all it needs"
    return "\n".join([*map(str, findings), f"\n'vltune run' with its defaults (--backbone mini) {verdict}"])


def _finding(name: str, needed: bool, check: Callable[[], Answer]) -> Finding:
    try:
        return Finding(name, *check(), needed=needed)
    except Exception as error:  # noqa: BLE001 - a broken machine is what this command is for: the other lines matter
        said = " ".join(f"cannot be examined: {type(error).__name__}: {error}".split())
        return Finding(name, "missing" if needed else "limited", said, "repair what this names", needed)
