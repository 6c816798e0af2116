"""`run --tensorboard`: what TensorBoard shows of a run: loss and learning rate while it trains, then its record.

Nothing of a run depends on what is written here, so an error of it is a line on stderr and costs no run.
"""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.one_line import named
from harness.record import Cell, Distribution, Record, cell_key
from harness.settings import UsageError
from harness.store import folder_name
from harness.tables.rows import flatten, show
from harness.train import Step

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
"""Below the results; the folder that TensorBoard is given."""
FLUSH_S = 2
"""Seconds between writes to the disk."""


def check() -> None:
    """Refuse to go on without the package, which only an extra installs.

    Raises:
        UsageError: names the fix.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise UsageError("--tensorboard: the package tensorboard is missing; pip install 'vltune[profile]'")


def folder(results: Path, cell: Cell, started: datetime) -> Path:
    """`tensorboard/<backbone>/<task>/<method>/seed-<n>/<time and cell>`, whose end is how the run's id begins."""
    names = map(folder_name, (cell.backbone, cell.task, cell.method))
    utc = started.astimezone(UTC)
    run = f"{utc:%Y%m%dT%H%M%S}{utc.microsecond // 1000:03d}Z-{cell_key(cell)[:8]}"
    return results.joinpath(FOLDER, *names, f"seed-{cell.seed}", run)


class Board:
    """What TensorBoard shows of one run.

    Args:
        where: the run's folder, which is made.
        label: of the run, for messages.
    """

    def __init__(self, where: Path, label: str) -> None:
        self._where = where
        self._label = label
        self._writer: SummaryWriter | None = None
        self._steps = 0
        self._works = True
        # Now, as loading the package takes a second and memory, which are not to count as training.
        self._try(lambda _: None)

    def step(self, done: Step) -> None:
        """Write a training step."""

        def write(writer: SummaryWriter) -> None:
            writer.add_scalar("train/loss", done.loss, done.number)
            writer.add_scalar("train/learning_rate", done.learning_rate, done.number)

        self._steps = done.number
        self._try(write)

    def end(self, record: Record) -> None:
        """Write the scores and meters of a run at its last step, its settings, and the record as text."""

        def write(writer: SummaryWriter) -> None:
            from torch.utils.tensorboard.summary import hparams

            scalars = _scalars(record)
            for name, value in scalars.items():
                writer.add_scalar(name, value, self._steps)
            writer.add_text("record", textwrap.indent(record.to_json(), "    "), self._steps)
            # Not `add_hparams`, which would make a run of its own of them.
            file: Any = writer.file_writer
            for summary in hparams(_settings(record.cell), scalars):
                file.add_summary(summary)
            writer.close()

        self._try(write)

    def _try(self, write: Callable[[SummaryWriter], None]) -> None:
        if not self._works:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = self._writer or SummaryWriter(str(self._where), flush_secs=FLUSH_S)
            write(self._writer)
        except Exception as error:  # noqa: BLE001 - a full disk, say: it must not cost the run
            self._works = False
            reason = named(error)
            said = f"{self._label}: nothing more for TensorBoard: {reason}"
            print(said, file=sys.stderr, flush=True)  # noqa: T201 - beside `workbench.say`


def _scalars(record: Record) -> dict[str, float]:
    """Every score and meter that has a value; of a meter that was read often its median."""
    scores = {f"scores/{name}": score.value for name, score in record.metrics.items()}
    meters = {
        f"meters/{name}": meter.median if isinstance(meter, Distribution) else meter.value
        for name, meter in record.meters.items()
    }
    return {name: float(value) for name, value in (scores | meters).items() if value is not None}


def _settings(cell: Cell) -> dict[str, bool | float | str]:
    """Every option by its dotted name, in the types that TensorBoard knows."""
    named = {"method": cell.method, "task": cell.task, "backbone": cell.backbone, "seed": cell.seed}
    options = flatten(cell.options) | named
    return {name: value if isinstance(value, bool | int | float) else show(value) for name, value in options.items()}
