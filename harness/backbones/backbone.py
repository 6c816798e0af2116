"""What the harness asks of every backbone, beyond the sites that methods see."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from harness.backbones import BackboneError
from methods import Batch, Branch, Handle, M, Slot, VLModel

T = TypeVar("T")


class Gathers(Protocol):
    """What a backbone asks of the processes that share a batch; see `harness.parallel.ranks.Ranks`."""

    def rows(self, rows: Tensor) -> Tensor:
        """The rows of all, with gradients."""

    def gather(self, item: T) -> list[T]:
        """What each gives."""


class Backbone(VLModel):
    """A loaded backbone: `tasks.Model` for tasks, `methods.VLModel` for methods.

    Attributes:
        folders: the weight files that were loaded, or their folders; empty for random weights.
        contrast_width, native_head: see `tasks.Model`.
        head: the task's own trained parameters (see `tasks.Task.head`), or None.
    """

    image_size: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    embed_width: int
    contrast_width: int = 256
    native_head: Mapping[str, Tensor] | None = None
    folders: tuple[Path, ...]
    head: nn.Module | None = None
    _ranks: Gathers | None = None  # while a batch is shared
    _visual: Tensor | None = None  # of the forward in progress
    _slots: tuple[Slot, ...] = ()

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """What the frozen weights are kept in."""

    @property
    @abstractmethod
    def text_tokens(self) -> int | None:
        """How long every text is made, where costs are measured; None where texts are as they are."""

    @property
    @abstractmethod
    def max_length(self) -> int:
        """Tokens of its context."""

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """The backbone's own parameters, each once, and what a method has put into its towers."""

    @property
    @abstractmethod
    def layers(self) -> Sequence[nn.Module]:
        """The layers that hold most of its weights, each run once in every forward."""

    @property
    @abstractmethod
    def towers(self) -> Sequence[nn.Module]:
        """All that it consists of."""

    @contextlib.contextmanager
    def shared(self, ranks: Gathers) -> Iterator[None]:
        """In the block each batch is a share of one that several processes have, see `gather_rows`."""
        self._ranks = ranks
        try:
            yield
        finally:
            self._ranks = None

    def gather_rows(self, rows: Tensor) -> Tensor:
        """See `tasks.Model.gather_rows`."""
        return rows if self._ranks is None else self._ranks.rows(rows)

    def gather_names(self, names: Sequence[str]) -> list[str]:
        """See `tasks.Model.gather_names`."""
        parts = [names] if self._ranks is None else self._ranks.gather(names)
        return [name for part in parts for name in part]

    @property
    def visual_tokens(self) -> Tensor:
        """See `VLModel.visual_tokens`.

        Raises:
            RuntimeError: read before any forward.
        """
        if self._visual is None:
            raise RuntimeError("visual_tokens is known during a forward only")
        return self._visual

    def per_forward(self, slot: Slot) -> Handle:
        """See `VLModel.per_forward`."""
        self._slots = (*self._slots, slot)

        def forget() -> None:
            self._slots = tuple(other for other in self._slots if other is not slot)

        return Undo(forget)

    def _as_now(self) -> Moment:
        """What belongs to the forward in progress, to go back to."""
        return Moment(self, self._slots)

    def _beside(self, reader: nn.Module, writer: nn.Module, branch: Branch) -> Undo:
        """Add `branch` of what `reader` is given to what `writer`, which runs after it, gives."""
        slot = Slot()

        def read(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            slot.value = branch(args[0])

        def write(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
            added: Tensor = slot.value
            slot.value = None
            return out + added.to(out.dtype)

        kept = self.per_forward(slot)
        reading, writing = reader.register_forward_pre_hook(read), writer.register_forward_hook(write)
        return Undo(kept.remove, reading.remove, writing.remove)

    @property
    @abstractmethod
    def room(self) -> int:
        """Tokens of text that fit beside what the attached method inserts."""

    @abstractmethod
    def text_length(self, prompt: str, answer: str | None) -> int:
        """Tokens of one row before any cut, to compare with `room`."""

    @abstractmethod
    def encode(
        self, prompts: Sequence[str], *, answers: Sequence[str] | None, images: Sequence[Tensor | None]
    ) -> Batch:
        """See `tasks.Model.encode`."""

    def loss(self, batch: Batch) -> Tensor:
        """See `tasks.Model.loss`.

        Raises:
            NotImplementedError: a backbone without `decode`; so the other two.
        """
        raise NotImplementedError(f"{self.name} offers no decode")

    def continuation_logprobs(self, batch: Batch, continuations: Sequence[Sequence[str]]) -> list[list[float]]:
        """See `tasks.Model.continuation_logprobs`."""
        raise NotImplementedError(f"{self.name} offers no decode")

    def generate(self, batch: Batch, *, max_new_tokens: int, beams: int = 1, length_penalty: float = 1.0) -> list[str]:
        """See `tasks.Model.generate`."""
        raise NotImplementedError(f"{self.name} offers no decode")

    def stack(self, images: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        """The pictures of a batch, [N, 3, H, W], and the rows they belong to, [N]."""
        rows = [row for row, image in enumerate(images) if image is not None]
        pixels = [image for image in images if image is not None]
        empty = torch.zeros(0, 3, self.image_size, self.image_size)
        return torch.stack(pixels) if pixels else empty, torch.tensor(rows, dtype=torch.long)

    @abstractmethod
    def embed(self, batch: Batch) -> Tensor:
        """See `tasks.Model.embed`."""

    def build(self, factory: Callable[[], M], *, seed: int) -> M:
        """See `VLModel.build`."""
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        with torch.random.fork_rng(devices=[]), torch.device("meta" if self.device.type == "meta" else "cpu"):
            torch.default_generator.manual_seed(seed)
            return factory().to(device=self.device, dtype=dtype).eval()

    def use_head(self, make: Callable[[], nn.Module | None], *, seed: int) -> Handle:
        """Make a task's own parameters from one seed, as `build` does, and offer them as `head` until removed."""

        def factory() -> nn.ModuleList:
            made = make()
            return nn.ModuleList([] if made is None else [made])

        built = self.build(factory, seed=seed)
        self.head = built[0] if len(built) else None
        return Undo(self._drop_head)

    def keep_features(self, folder: Path, *, pictures: int, name: str | None = None) -> Handle:
        """Compute a picture's features once where training does not change them, and keep them below `folder`.

        Until the handle is removed, and for as many pictures as said; under a name the files stay, and another process
        goes on with the same bits (see `features.discard`). Where they change, or there is no vision tower of its own,
        nothing is kept.
        """
        return Undo()

    def recompute(self) -> Handle:
        """Keep only the input of each layer for the backward pass, and compute the layer again there.

        Raises:
            BackboneError: this backbone cannot.
        """
        raise BackboneError(f"{self.name} offers no gradient checkpointing; set train.checkpointing=false")

    def compile(self) -> Handle:
        """Train through torch.compile until the handle is removed.

        Raises:
            BackboneError: this backbone cannot.
        """
        raise BackboneError(f"{self.name} offers no compilation; set train.compile=false")

    def _drop_head(self) -> None:
        self.head = None

    def unfreeze(self, tower: str) -> Handle:
        """See `VLModel.unfreeze`. Deviation: a float64 backbone keeps its dtype."""
        return Thaw(self.tower(tower))  # type: ignore[arg-type]


class Undo:
    """A handle that runs each of its steps once, the last one first."""

    def __init__(self, *steps: Callable[[], None]) -> None:
        self._steps = list(steps)

    def remove(self) -> None:
        """See `methods.Handle`."""
        while self._steps:
            self._steps.pop()()


class Moment:
    """What belonged to a forward when this was made; in a `with` block it is there again, and then what was before."""

    def __init__(self, model: Backbone, slots: Sequence[Slot]) -> None:
        self._model, self._slots = model, slots
        self._then = self._held()
        self._since = self._then

    def _held(self) -> tuple[Tensor | None, list[Any]]:
        return self._model._visual, [slot.value for slot in self._slots]

    def _put(self, held: tuple[Tensor | None, list[Any]]) -> None:
        self._model._visual, values = held
        for slot, value in zip(self._slots, values, strict=True):
            slot.value = value

    def __enter__(self) -> None:
        self._since = self._held()
        self._put(self._then)

    def __exit__(self, *_: object) -> None:
        self._put(self._since)
        self._since = self._then


class Thaw:
    """Trainable float32 (or float64) copies in place of a module's frozen parameters, until it is removed."""

    def __init__(self, module: nn.Module) -> None:
        self._frozen = [(parameter, parameter.data) for parameter in module.parameters()]
        for parameter, data in self._frozen:
            dtype = torch.promote_types(data.dtype, torch.float32)
            parameter.data = data.to(dtype, copy=True)
            parameter.requires_grad_(True)

    def remove(self) -> None:
        """Put the frozen tensors back."""
        for parameter, data in self._frozen:
            parameter.grad = None
            parameter.data = data
            parameter.requires_grad_(False)
        self._frozen = []
