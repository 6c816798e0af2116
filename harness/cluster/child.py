"""The fresh process of one cell on a node: `python -m harness.cluster.child FOLDER PARENT`, a pickled `Job` on stdin.

What the driver knows of code, data and weights is held against what this node has: a record says what the driver
checked, so it must be what ran.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
import sys
from pathlib import Path

from harness import cell, prepare, provenance, run
from harness.cluster.job import Job
from harness.cluster.node import REASON
from harness.parallel import isolation
from harness.resume.every import Every


class NodeError(RuntimeError):
    """This node is not what the driver takes it for; one line that names the fix."""


def main() -> int:
    """Run the job, with its results in FOLDER; why that cannot be done goes into a file there."""
    isolation.leave_with_the_parent()
    folder, parent = Path(sys.argv[1]), int(sys.argv[2])
    if os.getppid() != parent:  # it was gone before it could be followed
        return 1
    try:
        execute(pickle.load(sys.stdin.buffer), folder)
    except Exception as error:  # noqa: BLE001 - the driver records it, whatever it is
        (folder / REASON).write_text(f"{type(error).__name__}: {' '.join(str(error).splitlines())}", encoding="utf-8")
    return 0


def execute(job: Job, folder: Path) -> None:
    """Run a cell as any isolated one is run, with its results in `folder`.

    Raises:
        NodeError: this node has other code, data or weights than the driver.
        tasks.DataError, harness.backbones.BackboneError: it lacks data or weights.
    """
    # A training state in a folder that will be thrown away is of no use.
    plan = dataclasses.replace(job.plan, results=folder, every=Every(None, math.inf))
    [planned] = plan.cells
    here = provenance.code(run.sources(planned))["sources"]
    if differing := sorted(name for name, sha256 in job.ready.code["sources"].items() if here.get(name) != sha256):
        raise NodeError(f"this node has other code than the driver ({', '.join(differing)}): install the same version")
    data = prepare.task_data(plan, planned.task_name, planned.task)
    if data.sha256 != job.data_sha256:
        raise NodeError(f"{data.root} on this node holds other data than on the driver: copy them again")
    bench = cell.bench_alone(plan, data, job.weights_sha256, None)
    if run.weights_sha256(bench.model) != job.weights_sha256:
        where = ", ".join(map(str, bench.model.folders))
        raise NodeError(f"{where} on this node holds other weights than on the driver: copy them again")
    cell.run_alone(bench, job.ready, job.number)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # All is written, and Python would take seconds to clear up what nobody needs any more.
    os._exit(code)
