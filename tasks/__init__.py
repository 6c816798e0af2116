"""What methods are compared on: the contracts a task is written against, and the registry.

One task is one file in this folder (or one entry point of the group `vltune.tasks`); its name is the file
name. Nothing here imports torch when the module loads, so that `harness list` answers at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.metadata
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

ENTRY_POINTS = "vltune.tasks"


class UnknownName(ValueError):
    """A task name that no file and no entry point offers."""


class DataError(ValueError):
    """Data that cannot be used; the message names the file, the field and the fix in one line."""


class NoSplit(DataError):
    """Data that may be good, but have no example of the split that was asked for."""


class Model(Protocol):
    """What a task may ask of a backbone with a method attached to it.

    `head` is what `Task.head` made for this run, or None. `embed_width` is the width of `embed`; `contrast_width` that
    of the space which a new contrastive head maps into, unless an option says otherwise; `native_head` holds the
    tensors of the contrastive head in the backbone's own checkpoint, or is None.
    """

    image_size: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    embed_width: int
    contrast_width: int
    native_head: Mapping[str, Tensor] | None
    head: nn.Module | None

    def encode(self, prompts: Sequence[str], *, answers: Sequence[str] | None, images: Sequence[Tensor | None]) -> Any:
        """A batch of texts with their images ([3, H, W] float tensors, or None); labels only on answers."""

    def loss(self, batch: Any) -> Tensor:
        """Mean cross-entropy over the labelled tokens of the batch (float32 scalar)."""

    def continuation_logprobs(self, batch: Any, continuations: Sequence[Sequence[str]]) -> list[list[float]]:
        """Summed log-probability of each continuation text after its row's prompt."""

    def generate(self, batch: Any, *, max_new_tokens: int, beams: int = 1, length_penalty: float = 1.0) -> list[str]:
        """The new text of each row, special tokens removed: greedy, or the best of a beam search.

        Beams are ranked by their summed log-probability / length ** length_penalty.
        """

    def embed(self, batch: Any) -> Tensor:
        """[B, embed_width] float32, not normalised: what the model makes of each row.

        A decoder gives the last hidden state (after the final norm) of a row's last token. An encoder of both
        modalities gives that of its first token, and reads of a row with an image the image alone.
        """

    def gather_rows(self, rows: Tensor) -> Tensor:
        """For a loss over the whole batch: the rows of all processes that have a share of it, with gradients.

        In the order of the batch. Where the batch is not shared: `rows`.
        """

    def gather_names(self, names: Sequence[str]) -> list[str]:
        """What the rows of `gather_rows` are called, of what this process calls its own."""


@dataclass(frozen=True)
class Example:
    """One example; tasks subclass it. `image` is None where the example has no picture."""

    id: str
    image: Path | None


@dataclass(frozen=True)
class Prediction:
    """What the model answered for one example; JSON-serialisable by `dataclasses.asdict`; tasks may subclass it."""

    id: str
    output: str
    choice: int | None = None


@dataclass(frozen=True)
class Metric:
    """One score. `value` is None, with a `reason`, where the data cannot give it."""

    value: float | None
    unit: str
    goal: Literal["max", "min"]
    n: int
    successes: int | None = None
    reason: str | None = None


class ExampleScore(NamedTuple):
    """What one example adds to the primary score, which is the mean of `value` over all examples.

    group: what examples about the same picture share; they are not independent of each other.
    """

    group: str
    value: float


def setting(default: Any, doc: str, **metadata: Any) -> Any:
    """A task option: its default, what it means, and optionally `choices` or `source`."""
    return dataclasses.field(default=default, metadata={"doc": doc, **metadata})


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """One task; its fields are its options. A file in tasks/ defines exactly one concrete subclass.

    `needs` names what of a backbone it uses (see `methods.VLModel.offers`); `divisible` says whether the loss of a
    batch is the mean over its parts, so that gradients may be accumulated.
    """

    primary: ClassVar[str] = "accuracy"
    needs: ClassVar[frozenset[str]] = frozenset({"decode"})
    divisible: ClassVar[bool] = True

    split: str = setting("test", "what evaluation uses", choices=("test", "val"))
    overlong: str = setting(
        "error", "prompts longer than the context: refuse the data, or cut them and count", choices=("error", "cut")
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            choices = field.metadata.get("choices")
            if choices and getattr(self, field.name) not in choices:
                hint = _hint(str(getattr(self, field.name)), [str(choice) for choice in choices])
                raise ValueError(f"{field.name} cannot be {getattr(self, field.name)!r}; {hint}")

    @abstractmethod
    def examples(self, split: Literal["train", "val", "test"], root: Path, *, limit: int | None) -> list[Example]:
        """The validated examples of one split, in the order of their files.

        With a `limit` below their number, a fixed subset: the first `limit` of the split ordered by the SHA-256 of the
        id, so that subsets are nested and independent of file order and seed.

        Raises:
            DataError: a file or image is missing or malformed, or an example is invalid.
            NoSplit: there is no file of the split, or no example in it.
        """

    def prepare(self, examples: Sequence[Example], *, image_size: int) -> None:  # noqa: B027  most tasks override it
        """Read every picture once before any work starts, so that a broken one does not end a training.

        Raises:
            DataError: pictures that are missing or broken; names the first and says how many.
        """

    def head(self, model: Model) -> nn.Module | None:
        """Parameters of the task's own, trained together with the method's; None for a task without any.

        Built once per cell under the cell's seed; the harness puts it on the model's device as `model.head`. A
        parameter with `requires_grad` off stays as it is, unless the method trains all there is (`full`).
        """
        return None

    @abstractmethod
    def texts(self, examples: Sequence[Example], *, train: bool) -> list[tuple[str, str]]:
        """(prompt, answer) of each example; the answer is empty at evaluation."""

    def longest_answers(self, examples: Sequence[Example]) -> Sequence[str | None]:
        """The longest text that evaluation reads behind each prompt, and that must fit too; None for none."""
        return [None] * len(examples)

    @abstractmethod
    def batch(self, model: Model, examples: Sequence[Example], *, train: bool) -> Any:
        """Collate examples: texts, images and labels (labels only when `train`)."""

    @abstractmethod
    def loss(self, model: Model, batch: Any) -> Tensor:
        """The training loss of one batch."""

    def weight(self, batch: Any) -> int:
        """How many equal terms the loss of this batch is the mean of: its labelled tokens, for `model.loss`."""
        return max(1, int((batch.labels[:, 1:] >= 0).sum()))

    @abstractmethod
    def predict(self, model: Model, batch: Any, examples: Sequence[Example]) -> list[Prediction]:
        """One prediction per example; depends on that example alone."""

    def follow_up(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> list[Example]:
        """What is to be predicted in a second round, once the predictions of all examples are there, in their order.

        These examples are batched and given to `predict` as any others, in batches of their own.
        """
        return []

    def conclude(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> list[Prediction]:
        """What is recorded and scored, once all predictions are there; a task that ranks examples does it here.

        Args:
            predictions: of the examples, and then of those that `follow_up` asked for, if any.
            examples: of the first round.

        Returns:
            One for each of these examples.
        """
        return list(predictions)

    @abstractmethod
    def score(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, Metric]:
        """All metrics of the task, the `primary` one among them."""

    def example_scores(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, ExampleScore]:
        """The primary score's parts by id of the example, from concluded predictions, in the primary score's unit.

        Methods are compared example by example with them. Empty where the score has no value or no such parts.
        """
        return {}

    def subsets(self, examples: Sequence[Example]) -> Mapping[str, frozenset[str]]:
        """By the name that `compare --only` takes, the ids of those examples; parts may overlap."""
        return {}


def names() -> list[str]:
    """Every known task name, sorted: files of this folder and entry points."""
    own = {module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg}
    return sorted(own | {point.name for point in importlib.metadata.entry_points(group=ENTRY_POINTS)})


def load(name: str) -> type[Task]:
    """The class of a task; imports its file only now.

    Raises:
        UnknownName: no such task, with the nearest names.
    """
    if name not in names():
        hint = _hint(name, names())
        raise UnknownName(f"unknown task {name!r}; {hint}")
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if point.name == name:
            return point.load()  # type: ignore[no-any-return]
    module = importlib.import_module(f"{__name__}.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Task) and value.__module__ == module.__name__
    )


def get(name: str, **fields: Any) -> Task:
    """A task by name with some options set.

    Raises:
        UnknownName: no such task.
        ValueError: unknown option or value.
    """
    cls = load(name)
    known = [field.name for field in dataclasses.fields(cls)]
    for field in fields:
        if field not in known:
            hint = _hint(field, known)
            raise ValueError(f"{name} has no option {field!r}; {hint}")
    return cls(**fields)


def _hint(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
