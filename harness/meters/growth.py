"""How a method's FLOPs grow with the text, counted at any size of backbone on any machine, with random weights.

Two things make it cheap. Products of matrices are counted and not computed, as FLOPs hang on shapes alone. And layers
are alike, so that FLOPs are linear in their number: three shallow backbones tell, exactly, what any depth takes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from harness import backbones
from harness.backbones import BackboneError, BackboneSpec
from harness.backbones.decoder import DecoderModel
from harness.meters.flops import count, formulas
from harness.tables.columns import MISSING, significant
from methods import Batch, Method

SHALLOW = (2, 3)
"""Layers of the language model and of the vision tower that are counted: the first and last are not as the others."""
KINDS = ("train", "prefill", "token")
TERA = 1e12


@dataclass(frozen=True)
class Cost:
    """FLOPs of one sample: of a training step, of reading its prompt, and of one token more.

    `text_tokens` are those of the row, with its answer; what a method inserts comes on top. `images` is 0 or 1.
    """

    method: str
    text_tokens: int
    images: int
    train: int
    prefill: int
    token: int


def costs(
    methods: Sequence[tuple[str, Method]], spec: BackboneSpec, lengths: Sequence[int]
) -> tuple[list[Cost], dict[str, str]]:
    """Costs of every method that the backbone can take, at every length of text, with a picture and without.

    Returns:
        The costs in the order given, and by method why the others have none.

    Raises:
        BackboneError: the backbone cannot be read, is no decoder, or has no room for a text so long.
    """
    spec = dataclasses.replace(spec, weights="random")
    whole = _depth(spec)
    base = min(SHALLOW[0], whole[0]), min(SHALLOW[1], whole[1])
    found, refused = _at_depth(methods, spec, lengths, base)
    deeper = (base[0] + 1, base[1]), (base[0], base[1] + 1)
    slopes = [_at_depth(methods, spec, lengths, depth)[0] for depth in deeper]
    more = whole[0] - base[0], whole[1] - base[1]
    return [_extended(*three, more=more) for three in zip(found, *slopes, strict=True)], refused


def exponent(lengths: Sequence[int], values: Sequence[float]) -> float | None:
    """The power of the length that the values grow as: the slope of a straight line through their logarithms.

    None where there are fewer than two lengths, or a value is zero.
    """
    if len(set(lengths)) < 2 or min(values) <= 0:
        return None
    return statistics.linear_regression([*map(math.log, lengths)], [*map(math.log, values)]).slope


def as_json(costs: Sequence[Cost], refused: Mapping[str, str]) -> str:
    """Every cost, and by method why the others have none."""
    return json.dumps({"costs": [dataclasses.asdict(cost) for cost in costs], "skipped": refused}, indent=2)


def as_markdown(costs: Sequence[Cost], refused: Mapping[str, str], *, backbone: str) -> str:
    """The table, and below it what its columns mean and which methods are not in it."""
    said = [
        f"FLOPs of one sample on {backbone}: a training step at each length of text with a picture, and the power of "
        "the length that this grows as; what the picture adds to the shortest text; reading the longest with its "
        "picture; one token more after it.",
        *(f"Left out: {name} ({reason})." for name, reason in refused.items()),
    ]
    return "\n\n".join([table(costs), *said] if costs else said)


def table(costs: Sequence[Cost]) -> str:
    """The rows as Markdown."""
    from tabulate import tabulate

    found = rows(costs)
    align = ["left", *["right"] * (len(found[0]) - 1)]
    return tabulate(found, headers="keys", tablefmt="github", disable_numparse=True, colalign=align)


def rows(costs: Sequence[Cost]) -> list[dict[str, str]]:
    """One row for each method, by title of column; the costs hold the same lengths of every method."""
    lengths = sorted({cost.text_tokens for cost in costs})
    names = dict.fromkeys(cost.method for cost in costs)
    return [_row(name, {(c.text_tokens, c.images): c for c in costs if c.method == name}, lengths) for name in names]


def _row(name: str, costs: Mapping[tuple[int, int], Cost], lengths: Sequence[int]) -> dict[str, str]:
    pictured = [costs[length, 1].train for length in lengths]
    power = exponent(lengths, pictured)
    short, long = min(lengths), max(lengths)
    return {
        "Method": name,
        **{f"{length:,} tokens TFLOP": _tera(value) for length, value in zip(lengths, pictured, strict=True)},
        "Grows as": MISSING if power is None else f"T^{power:.2f}",
        "Picture TFLOP": _tera(costs[short, 1].train - costs[short, 0].train),
        "Read TFLOP": _tera(costs[long, 1].prefill),
        "Token TFLOP": _tera(costs[long, 1].token),
    }


def _tera(flops: int) -> str:
    return significant(flops / TERA)


def _depth(spec: BackboneSpec) -> tuple[int, int]:
    shape = _load(spec, device="meta").shape
    return shape.llm_layers, shape.vision_layers


def _load(spec: BackboneSpec, *, device: str = "cpu") -> DecoderModel:
    model = backbones.load(spec, device=device, precision="bf16")
    if "decode" not in model.offers:
        raise BackboneError(f"{spec.name} writes no text; run --plan results/plans/cost-beit3.toml counts its FLOPs")
    return cast("DecoderModel", model)


def _at_depth(
    methods: Sequence[tuple[str, Method]], spec: BackboneSpec, lengths: Sequence[int], depth: tuple[int, int]
) -> tuple[list[Cost], dict[str, str]]:
    with _ShapesOnly():  # type: ignore[no-untyped-call]
        model = _load(dataclasses.replace(spec, layers=depth))
    found: list[Cost] = []
    refused: dict[str, str] = {}
    for name, method in methods:
        if (reason := method.unmet(model)) is not None:
            refused[name] = reason
            continue
        attachment = method.attach(model, seed=0)
        for length in lengths:
            _make_texts(model, length)
            found += [Cost(name, length, images, **_counted(model, images)) for images in (0, 1)]
        attachment.detach()
    return found, refused


def _make_texts(model: DecoderModel, length: int) -> None:
    if length > model.room:
        raise BackboneError(
            f"--text-tokens {length}: {model.name} has room for {model.room} tokens of text; name shorter ones"
        )
    model.text.exact_length = length


def _counted(model: DecoderModel, images: int) -> dict[str, int]:
    pictures = [torch.zeros(3, model.image_size, model.image_size) if images else None]
    trained = model.encode(["A"], answers=[" B"], images=pictures)
    asked = model.encode(["A"], answers=None, images=pictures)
    with _ShapesOnly(), torch.autocast("cpu", torch.bfloat16):  # type: ignore[no-untyped-call]
        read = model.prefill(asked)
        runs: list[Callable[[], object]] = [
            partial(_train, model, trained),
            partial(model.prefill, asked),
            partial(model.step, read, torch.zeros(1, dtype=torch.long)),
        ]
        return dict(zip(KINDS, map(count, runs), strict=True))


def _train(model: DecoderModel, batch: Batch) -> None:
    loss = model.loss(batch)
    if loss.requires_grad:
        loss.backward()
    for parameter in model.parameters():  # gigabytes, where all of the backbone is trained
        parameter.grad = None


def _extended(base: Cost, language: Cost, vision: Cost, *, more: tuple[int, int]) -> Cost:
    """What a backbone with so many `more` layers takes: two costs with one layer more tell what each adds."""

    def total(kind: str) -> int:
        start, *deeper = (cast("int", getattr(cost, kind)) for cost in (base, language, vision))
        return start + sum(layers * (other - start) for layers, other in zip(more, deeper, strict=True))

    return Cost(base.method, base.text_tokens, base.images, *map(total, KINDS))


class _ShapesOnly(TorchDispatchMode):
    """Every product of matrices comes out as zeros of its shape, at once, and weights are left undrawn."""

    products: ClassVar[frozenset[Any]] = frozenset({*flop_registry, *formulas()})
    draws: ClassVar[frozenset[Any]] = frozenset({torch.ops.aten.normal_, torch.ops.aten.uniform_})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._overloadpacket in self.draws:
            return args[0]
        if func._overloadpacket not in self.products:
            return func(*args, **kwargs)
        args, kwargs = tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
        return tree_map_only(torch.Tensor, partial(torch.zeros_like, device="cpu"), func(*args, **kwargs))
