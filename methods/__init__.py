"""What is compared: the contracts a method is written against, and the registry.

One method is one file in this folder (or one entry point of the group `vltune.methods`); its name is the
file name. Nothing here imports torch when the module loads, so that `harness list` answers at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.metadata
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from methods.kernels import Kernels

M = TypeVar("M", bound="nn.Module")
Tower = Literal["llm", "vision", "encoder"]
"""The parts of a backbone: a decoder LLM and its vision tower, or one encoder for both modalities."""
Reads = Literal["normed", "raw"]
Branch = Callable[["Tensor"], "Tensor"]
ImageHook = Callable[["Images"], "Tensor | None"]
ENTRY_POINTS = "vltune.methods"


class UnknownName(ValueError):
    """A method name that no file and no entry point offers."""


@runtime_checkable
class Handle(Protocol):
    """What every attachment point returns: `remove()` undoes exactly that attachment."""

    def remove(self) -> None:
        """Undo the attachment; a second call does nothing."""


@dataclass(frozen=True)
class Batch:
    """One padded batch, the same for every method.

    Rows are right-padded and begin with the BOS token where the tokenizer has one. `pixel_values` holds only
    the rows that have an image; `image_rows` says which rows those are.
    """

    input_ids: Tensor  # [B, T] int64
    lengths: Tensor  # [B] int64, real tokens of each row
    labels: Tensor  # [B, T] int64, -100 where no loss is taken
    pixel_values: Tensor  # [N, 3, H, W], N <= B
    image_rows: Tensor  # [N] int64
    # What tells the pictures apart, where the backbone keeps their features.
    image_keys: tuple[bytes, ...] = dataclasses.field(default=(), kw_only=True)


@dataclass(frozen=True)
class Images:
    """Vision features of the rows that have an image, once per forward.

    tokens: [N, 1 + P, C] with the CLS token first, or [N, P, C] when `has_cls` is false.
    rows: [N] int64, the batch rows they belong to. batch_size: B.
    """

    tokens: Tensor
    rows: Tensor
    batch_size: int
    has_cls: bool

    @property
    def patches(self) -> Tensor:
        """[N, P, C], row-major over the square patch grid."""
        return self.tokens[:, 1:] if self.has_cls else self.tokens


@dataclass(frozen=True)
class Insert:
    """What a method inserts into the input sequence, right after BOS.

    Rows with an image get the token ids of `before` and then `tokens` embeddings; the others get the token ids
    of `without_image`.
    """

    before: str = ""
    tokens: int = 0
    without_image: str = ""


@dataclass(frozen=True)
class Shape:
    """Sizes a method needs to build its parameters."""

    llm_width: int
    llm_layers: int
    vision_width: int
    vision_layers: int
    patches: int
    has_cls: bool
    vocab: int


class VLModel(ABC):
    """A frozen vision encoder and language model with named sites where a method may plug in.

    `offers` names the sites: of a decoder `llm.input`, `llm.ffn`, `llm.block`, `llm.linear`, `llm.weights`,
    `vision.ffn`, `vision.cls`, `vision.weights`; of an encoder of both modalities `encoder.ffn`, `encoder.block`,
    `encoder.linear`, `encoder.weights`. What a task needs is among them too: `decode` (token by token), `embed`, and
    `embed.fused` where `embed` reads an image and a text of the same row together.
    `kernels` says which implementation of a shared operation a method is to call.
    """

    name: str
    shape: Shape
    offers: frozenset[str]
    kernels: Kernels

    @abstractmethod
    def on_images(self, hook: ImageHook, *, insert: Insert | None = None) -> Handle:
        """Call `hook` once per forward with the vision features, before the language model runs.

        The hook prepares what the layers will read, and returns the embeddings [N, insert.tokens, D] to insert
        for the rows that have an image, or None.
        """

    @abstractmethod
    def on_ffn(self, tower: Tower, layer: int, branch: Branch, *, reads: Reads = "normed") -> Handle:
        """Add `branch(x)` to the residual stream beside a feed-forward network.

        x is what that network reads: the normed stream, or the `raw` residual stream before its norm.
        """

    @abstractmethod
    def on_block(self, tower: Tower, layer: int, branch: Branch) -> Handle:
        """Add `branch(h)` to the output h of a whole block; branches of `on_ffn` are part of h."""

    @property
    @abstractmethod
    def visual_tokens(self) -> Tensor:
        """[B, S] bool: which tokens of the sequence now passing through `llm` or `encoder` stand for pictures.

        To be read inside a branch, during a forward.
        """

    @abstractmethod
    def tower(self, tower: Tower) -> nn.Module:
        """The tower itself, for methods that wrap its linear layers and put them back when they detach."""

    @abstractmethod
    def unfreeze(self, tower: Tower) -> Handle:
        """Let training change the tower's own weights, as float32 copies; `remove` puts the frozen ones back."""

    @abstractmethod
    def withhold_images(self) -> Handle:
        """Treat every row as one without an image until the handle is removed."""

    @abstractmethod
    def build(self, factory: Callable[[], M], *, seed: int) -> M:
        """Make a method's parameters from one seed and put them on the model's device.

        They are float32 (float64 for a float64 backbone), whatever the precision of the backbone, and in evaluation
        mode until `Attachment.train` says otherwise.
        """


class Attachment:
    """A method attached to one model: owns the trained parameters and the way back.

    Args:
        module: holds every parameter of the method; its names are the names in checkpoints. Frozen parameters in it
            (of a wrapped backbone) are neither trained nor saved.
        handles: what `detach` removes, in reverse order.
    """

    def __init__(self, module: nn.Module, handles: Sequence[Handle]) -> None:
        self.module = module
        self._handles = list(handles)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that training may change."""
        return (parameter for _, parameter in self.named_parameters())

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """As `parameters`, with their names in a checkpoint."""
        return ((name, p) for name, p in self.module.named_parameters() if p.requires_grad)

    def train(self, mode: bool = True) -> None:
        """Switch the method's own dropout on or off; the backbone always stays in evaluation mode."""
        self.module.train(mode)

    def state_dict(self) -> dict[str, Tensor]:
        """Detached tensors of the trained parameters by name, as saved."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state_dict` gave.

        Raises:
            ValueError: a key is missing or unknown, or a shape differs; names the key and both shapes.
        """
        own = dict(self.named_parameters())
        if missing := sorted(set(own) - set(state)):
            raise ValueError(f"state lacks {missing[0]!r} (and {len(missing) - 1} more)")
        if extra := sorted(set(state) - set(own)):
            raise ValueError(f"state has unknown {extra[0]!r} (and {len(extra) - 1} more)")
        for name, parameter in own.items():
            if parameter.shape != state[name].shape:
                raise ValueError(f"{name!r} has shape {tuple(state[name].shape)}, expected {tuple(parameter.shape)}")
        for name, parameter in own.items():
            parameter.data.copy_(state[name])

    def keep(self, handle: Handle) -> None:
        """Let `detach` remove one more handle."""
        self._handles.append(handle)

    def detach(self) -> None:
        """Give the backbone back: afterwards its outputs are bit-equal to before."""
        while self._handles:
            self._handles.pop().remove()


@dataclass(frozen=True)
class Search:
    """Where `run --tune` looks for the value of a float field, both ends included; with `log` on a log scale."""

    low: float
    high: float
    log: bool = False


def setting(default: Any, doc: str, *, source: str = "", tune: Search | None = None, **limits: float) -> Any:
    """A hyperparameter: its default, what it means, where the default comes from and its `low`/`high`/`below`.

    With `tune`, `run --tune` searches it. That is for what the method's paper treats as tunable and what leaves the
    number of parameters as it is.
    """
    return dataclasses.field(default=default, metadata={"doc": doc, "source": source, "tune": tune, **limits})


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """One tuning method; its fields are its hyperparameters and default to the paper's values.

    A file in methods/ defines exactly one concrete subclass.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    trains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_limits(field, getattr(self, field.name))

    def unmet(self, model: VLModel) -> str | None:
        """Why this method cannot run on `model`, or None when it can."""
        lacking = sorted(self.needs - model.offers)
        return f"{model.name} offers no {', '.join(lacking)}" if lacking else None

    @abstractmethod
    def attach(self, model: VLModel, seed: int) -> Attachment:
        """Plug into `model`; the same seed gives the same initial parameters."""


def _check_limits(field: dataclasses.Field[Any], value: Any) -> None:
    limits = field.metadata
    for item in value if isinstance(value, tuple) else () if value is None else (value,):
        if "low" in limits and item < limits["low"]:
            raise ValueError(f"{field.name} must be at least {limits['low']}, got {item}")
        if "high" in limits and item > limits["high"]:
            raise ValueError(f"{field.name} must be at most {limits['high']}, got {item}")
        if "below" in limits and item >= limits["below"]:
            raise ValueError(f"{field.name} must be below {limits['below']}, got {item}")


def names() -> list[str]:
    """Every known method name, sorted: files of this folder and entry points."""
    own = {module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg}
    return sorted(own | {point.name for point in importlib.metadata.entry_points(group=ENTRY_POINTS)})


def load(name: str) -> type[Method]:
    """The class of a method; imports its file only now.

    Raises:
        UnknownName: no such method, with the nearest names.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names())}"
        raise UnknownName(f"unknown method {name!r}; {hint}")
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if point.name == name:
            return point.load()  # type: ignore[no-any-return]
    module = importlib.import_module(f"{__name__}.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    )


def get(name: str, **fields: Any) -> Method:
    """A method by name with some fields set; a list stands for a tuple.

    Raises:
        UnknownName: no such method.
        ValueError: unknown field or a value out of range.
    """
    cls = load(name)
    known = [field.name for field in dataclasses.fields(cls)]
    for field in fields:
        if field not in known:
            near = difflib.get_close_matches(field, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
            raise ValueError(f"{name} has no field {field!r}; {hint}")
    # JSON and TOML know lists only; a tuple is hashable and equal to the default's kind.
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
