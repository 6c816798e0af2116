"""The Triton `memory_read` as an operator of torch: dropout, compilation, checkpoints, FLOPs (tox run -e interp)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

if os.environ.get("TRITON_INTERPRET") != "1":
    # Set from the start of the process: Triton decides at its import.
    pytest.skip("needs Triton's interpreter: tox run -e interp", allow_module_level=True)
pytest.importorskip("triton", reason="needs triton, of the extra gpu")

from methods.kernels.memory_read import memory_read
from tests.methods.kernels.memory_read_cases import Inputs, Read, assert_as_exact, draw, reads, results

SIZES = (2, 3, 7, 16)
OPTIONS: list[dict[str, Any]] = [{"form": "adem", "drop_ratio": 0.29}, {"form": "memvp"}]
DROPOUT = {"form": "memvp", "dropout": 0.3}


@pytest.fixture(autouse=True)
def _no_traces() -> Iterator[None]:
    """Compiled code of one test is not another's, and neither are unwritten numbers."""
    torch.use_deterministic_algorithms(True)  # fills what is allocated with NaN
    yield
    torch.use_deterministic_algorithms(False)
    torch._dynamo.reset()


class Calls(TorchDispatchMode):
    """Which operators of ours run, and with which arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "vltune":
            self.seen.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def given(sizes: tuple[int, int, int, int] = SIZES, **options: Any) -> tuple[Inputs, Tensor]:
    inputs, weight = draw(sizes, torch.float32, form=options["form"], drop_ratio=options.get("drop_ratio", 0.0))
    return inputs | {"residual": torch.linspace(-1, 1, weight.numel()).view_as(weight)}, weight


def seeded(read: Read, inputs: Inputs, weight: Tensor) -> Inputs:
    torch.manual_seed(0)
    return results(read, inputs, weight)


def assert_same(first: Inputs, second: Inputs) -> None:
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def kept_by_dropout(x: Tensor, keys: Tensor, dropout: float) -> Tensor:
    """[B, T, S] the choice at torch's present seed, read off the output for values that pick one score each."""
    slots, width = keys.shape[1:]
    picks = torch.eye(slots, width).expand(x.shape[0], -1, -1)
    return memory_read(x, keys, picks, form="memvp", dropout=dropout, impl="triton")[..., :slots] != 0


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_dropout_keeps_its_share_of_every_slot_and_token(dropout: float) -> None:
    inputs, _ = draw((2, 33, 100, 130), torch.float32, form="memvp")
    torch.manual_seed(0)
    kept = kept_by_dropout(inputs["x"], inputs["keys"], dropout).double()
    for share in (kept.mean(), kept.mean(dim=(0, 1)), kept.mean(dim=2), kept.mean(dim=(1, 2))):
        spread = (dropout * (1 - dropout) * share.numel() / kept.numel()) ** 0.5
        assert float((share - 1 + dropout).abs().max()) < 5 * spread
    assert len(kept.flatten(0, 1).unique(dim=0)) == 66
    assert len(kept.flatten(0, 1).mT.unique(dim=0)) == 100


def test_dropout_follows_the_seed_and_moves_on() -> None:
    inputs, _ = draw((2, 33, 20, 48), torch.float32, form="memvp")
    torch.manual_seed(0)
    first, second = (kept_by_dropout(inputs["x"], inputs["keys"], 0.5) for _ in range(2))
    torch.manual_seed(0)
    again = kept_by_dropout(inputs["x"], inputs["keys"], 0.5)
    torch.manual_seed(1)
    other = kept_by_dropout(inputs["x"], inputs["keys"], 0.5)
    assert torch.equal(first, again)
    for kept in (second, other):
        assert abs(float((first == kept).double().mean()) - 0.5) < 5 * 0.5 / first.numel() ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("sizes", [(2, 33, 20, 48), (1, 3, 100, 130)])
def test_dropout_is_replayed_in_the_backward(sizes: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    """Judged for values that show what was dropped: the gradients must be those of the same choice."""
    batch, _, slots, width = sizes
    inputs, weight = draw(sizes, dtype, form="memvp")
    inputs["values"] = torch.eye(slots, width, dtype=dtype).expand(batch, -1, -1)
    torch.manual_seed(0)
    kept = kept_by_dropout(inputs["x"].float(), inputs["keys"].float(), 0.3)

    def specification(x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return (F.silu(x @ keys.mT) * kept / 0.7).to(x.dtype) @ values

    def read(x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        torch.manual_seed(0)
        out = memory_read(x, keys, values, impl="triton", form="memvp", dropout=0.3)
        torch.rand(5)  # the backward must not depend on where torch's generator stands by then
        return out

    assert_as_exact(read, specification, inputs, weight)


@pytest.mark.parametrize("options", [*OPTIONS, DROPOUT])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_give_the_same_gradients(reentrant: bool, options: dict[str, Any]) -> None:
    inputs, weight = given(**options)
    read = reads("triton", scale=0.5, **options)

    def twice(x: Tensor, keys: Tensor, values: Tensor, residual: Tensor) -> Tensor:
        return read(read(x, keys, values), keys, values, residual)

    def checkpointed(**tensors: Tensor) -> Tensor:
        return checkpoint(twice, *tensors.values(), use_reentrant=reentrant)

    assert_same(backward(twice, inputs, weight), backward(checkpointed, inputs, weight))


def backward(read: Read, inputs: Inputs, weight: Tensor) -> Inputs:
    """As `seeded`, by .backward(): reentrant checkpoints know no other."""
    torch.manual_seed(0)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    read(**leaves).backward(weight)
    gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    assert list(gradients) == list(inputs)
    return gradients


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("options", [*OPTIONS, DROPOUT])
def test_it_compiles_into_one_graph(options: dict[str, Any], backend: str) -> None:
    inputs, weight = given(**options)
    read = reads("triton", scale=0.5, **options)
    graphs = []

    def kept(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, example)

    compiled = torch.compile(read, fullgraph=True, backend=kept)
    assert_same(seeded(compiled, inputs, weight), seeded(read, inputs, weight))
    (graph,) = graphs
    assert sum("vltune" in str(node.target) for node in graph.graph.nodes) >= 1


def test_it_compiles_for_texts_of_any_length() -> None:
    options = OPTIONS[0]
    read = reads("triton", **options)
    compiled = torch.compile(read, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for text in (3, 5, 9):
            inputs, weight = given(sizes=(2, text, 7, 16), **options)
            assert_same(results(compiled, inputs, weight), results(read, inputs, weight))


@pytest.mark.parametrize("options", OPTIONS)
def test_it_keeps_the_rules_of_operators(options: dict[str, Any]) -> None:
    inputs, weight = given(**options)
    with Calls() as calls:
        results(reads("triton", scale=0.5, **options), inputs, weight)
    names = [func.name() for func, _, _ in calls.seen]
    assert "vltune::memory_read" in names
    for func, args, kwargs in calls.seen:
        own = [a.detach().requires_grad_() if _trained(func, a) else a for a in args]
        torch.library.opcheck(func, tuple(own), kwargs, test_utils=_checks(func))


def _trained(func: Any, argument: Any) -> bool:
    return func.name() == "vltune::memory_read" and isinstance(argument, Tensor) and argument.is_floating_point()


def _checks(func: Any) -> tuple[str, ...]:
    shapes = ("test_schema", "test_faketensor")
    if func.name() == "vltune::memory_read":
        return (*shapes, "test_autograd_registration", "test_aot_dispatch_dynamic")
    return shapes


@pytest.mark.parametrize("options", [*OPTIONS, DROPOUT])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_shapes_are_known_without_numbers(dtype: torch.dtype, options: dict[str, Any]) -> None:
    with FakeTensorMode():
        x, memory = torch.empty(2, 3, 16, dtype=dtype), torch.empty(2, 5, 16, dtype=dtype)
        inputs = {"x": x, "keys": memory, "values": memory.clone(), "residual": x.clone()}
        found = results(reads("triton", scale=0.5, **options), inputs, torch.empty(2, 3, 16, dtype=dtype))
    for name, tensor in found.items():
        like = inputs[name.removeprefix("grad_")] if name != "out" else x
        assert (tensor.shape, tensor.dtype, tensor.device) == (like.shape, dtype, like.device)


@pytest.mark.parametrize("options", [*OPTIONS, DROPOUT])
def test_flops_are_counted(options: dict[str, Any]) -> None:
    inputs, weight = given(**options)
    batch, text, slots, width = SIZES
    products = batch * text * slots * width
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        reads("triton", scale=0.5, **options)(**inputs)
    assert forward.get_total_flops() == 4 * products
    with FlopCounterMode(display=False) as both:
        results(reads("triton", scale=0.5, **options), inputs, weight)
    assert both.get_total_flops() == (4 + 8) * products


@pytest.mark.parametrize("options", OPTIONS)
def test_without_gradients(options: dict[str, Any]) -> None:
    inputs, weight = given(**options)
    read = reads("triton", **options)
    out = results(read, inputs, weight)["out"]
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(read(**inputs), out)


@pytest.mark.parametrize("options", OPTIONS)
def test_on_the_processor_auto_is_the_reference(options: dict[str, Any]) -> None:
    inputs, weight = given(**options)
    with Calls() as calls:
        auto = results(reads("auto", **options), inputs, weight)
    assert calls.seen == []
    assert_same(auto, results(reads("reference", **options), inputs, weight))
