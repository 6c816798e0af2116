"""FLOPs against counts by hand, and counting that leaves no trace in a run."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import harness.measure as measuring
import methods
import tasks
from harness import cli
from harness.backbones import decoding
from harness.backbones.backbone import Backbone
from harness.backbones.decoder import DecoderModel
from harness.measure import TRAINING
from harness.meters import flops
from harness.plan import TrainOptions
from harness.record import METERS, Meter, Record, Scalar, Unavailable, unavailable
from harness.store import Store
from harness.train import TrainResult
from methods import Attachment
from methods.kernels.memory_read import memory_read
from methods.kernels.memory_read import unavailable as without_kernels
from tasks import Example, Metric, Prediction, Task
from tasks.mini import pairs
from tasks.mini import scienceqa as mini_scienceqa
from tests.tiny_backbone import LLM, TEXT
from tests.tiny_beit3 import tiny_beit3

FIELDS: dict[str, dict[str, Any]] = {
    "ademvl": {"scales": (16, 4)},
    "memvp": {"slots": 16},
    "blind": {"fields": (("scales", (16, 4)),)},
}
WIDTH, INNER, HEADS, KEY_HEADS = 48, 64, 4, 2
LINEAR = 2 * WIDTH * WIDTH + 2 * WIDTH * (WIDTH // HEADS * KEY_HEADS) + 3 * WIDTH * INNER
"""Multiplications of a token in q and o, in k and v, and in gate, up and down."""


def llama_layer(attention: str) -> nn.Module:
    sizes = {**LLM, "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, **TEXT, num_attention_heads=HEADS, num_key_value_heads=KEY_HEADS)
    config._attn_implementation = attention
    return LlamaForCausalLM(config).model.layers[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_llama_layer_is_counted_as_by_hand(attention: str, frozen: bool) -> None:
    rows, tokens = 2, 6
    layer = llama_layer(attention).requires_grad_(not frozen)
    hidden = torch.randn(rows, tokens, WIDTH, requires_grad=True)
    places = (torch.randn(1, tokens, WIDTH // HEADS), torch.randn(1, tokens, WIDTH // HEADS))

    def forward(x: Tensor = hidden) -> Tensor:
        return layer(x, position_embeddings=places, attention_mask=None)  # type: ignore[no-any-return]

    linear = 2 * rows * tokens * LINEAR
    product = 2 * rows * tokens * tokens * WIDTH  # of all heads; hidden positions are counted
    assert flops.count(forward) == linear + 2 * product
    backward = (linear if frozen else 2 * linear) + 4 * product
    assert flops.count(lambda: forward().sum().backward()) == linear + 2 * product + backward
    with torch.inference_mode():
        assert flops.count(lambda: forward(hidden.detach())) == linear + 2 * product


@pytest.mark.parametrize("form", ["adem", "memvp"])
@pytest.mark.parametrize("impl", ["reference", "triton"])
def test_every_implementation_of_a_memory_read_counts_the_same(form: Any, impl: Any) -> None:
    if impl == "triton" and (reason := without_kernels(torch.device("cpu"))):
        pytest.skip(reason)
    x, keys, values = (torch.randn(2, length, 16, requires_grad=True) for length in (3, 7, 7))
    memory_read(x, keys, values, form=form, impl=impl)  # an operator's formula comes with its module, at first use
    product = 2 * 2 * 3 * 7 * 16
    assert flops.count(lambda: memory_read(x, keys, values, form=form, impl=impl)) == 2 * product
    assert flops.count(lambda: memory_read(x, keys, values, form=form, impl=impl).sum().backward()) == 6 * product


@dataclass(frozen=True, kw_only=True)
class Say(Task):
    """Texts of known lengths, answered by as many tokens as `new`; without a picture."""

    new: int = 1

    def examples(self, split: Any, root: Path, *, limit: int | None) -> list[Example]:
        return [Example(str(number), None) for number in range(4)]

    def texts(self, examples: Sequence[Example], *, train: bool) -> list[tuple[str, str]]:
        return [("x" * (3 + 2 * int(e.id)), "") for e in examples]

    def batch(self, model: Any, examples: Sequence[Example], *, train: bool) -> Any:
        prompts = [prompt for prompt, _ in self.texts(examples, train=train)]
        return model.encode(prompts, answers=None, images=[None] * len(prompts))

    def loss(self, model: Any, batch: Any) -> Tensor:
        raise NotImplementedError

    def predict(self, model: Any, batch: Any, examples: Sequence[Example]) -> list[Prediction]:
        return [Prediction(examples[0].id, *model.generate(batch, max_new_tokens=self.new))]

    def score(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, Metric]:
        return {"accuracy": Metric(0.0, "%", "max", len(examples), 0)}


def unsaid(examples: Sequence[Example]) -> list[Prediction]:
    return [Prediction(example.id, "") for example in examples]


def of_prediction(model: Backbone, task: Task, examples: Sequence[Example]) -> Meter:
    return flops.prediction(model, task, examples, unsaid(examples), accelerator=Accelerator(cpu=True))


def tiny_forward(tokens: int, *, sees: int) -> int:
    """One row through the tiny Llama, whose layers have as many heads for keys; logits of one position."""
    layer = 2 * tokens * (4 * WIDTH * WIDTH + 3 * WIDTH * INNER) + 4 * tokens * sees * WIDTH
    return LLM["num_hidden_layers"] * layer + 2 * WIDTH * TEXT["vocab_size"]  # type: ignore[return-value]


@pytest.mark.parametrize("new", [1, 5])
def test_a_prediction_is_counted_as_by_hand_with_every_decoded_token(tiny_model: DecoderModel, new: int) -> None:
    tiny_model.text.eos = [10_000]  # which no row reaches
    task = Say(new=new)
    examples = task.examples("test", Path(), limit=None)
    lengths = [tiny_model.text_length(prompt, None) for prompt, _ in task.texts(examples, train=False)]
    expected = [
        tiny_forward(length, sees=length) + (new - 1) * tiny_forward(1, sees=length + new - 1) for length in lengths
    ]
    found = of_prediction(tiny_model, task, examples)
    assert found == Scalar(value=round(sum(expected) / len(expected)), unit=METERS["infer_flops_per_sample"])


def settings(**changes: Any) -> TrainOptions:
    return TrainOptions(**{"steps": 2, "batch_size": 4, "lr": 1e-2, **changes})


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("data")
    mini_scienceqa.write(root / "questions", train=12, val=2, test=12)
    pairs.write(root / "pairs", train=6, val=2, test=6)
    return {"scienceqa": root / "questions", "coco_caption": root / "pairs", "retrieval": root / "pairs"}


@contextlib.contextmanager
def attached(model: Backbone, method: str, task: Task) -> Iterator[Attachment]:
    attachment = methods.get(method, **FIELDS.get(method, {})).attach(model, 0)
    attachment.keep(model.use_head(lambda: task.head(model), seed=0))
    try:
        yield attachment
    finally:
        attachment.detach()


def of_training(model: Backbone, attachment: Attachment, task: Task, root: Path, **changes: Any) -> Meter:
    """The meter, and a check that counting has left the parameters as they were."""
    train = task.examples("train", root, limit=None)
    lengths = [model.text_length(prompt, answer) for prompt, answer in task.texts(train, train=True)]
    before = {name: value.clone() for name, value in attachment.state_dict().items()}
    shared = {"accelerator": Accelerator(cpu=True), "seed": 0, "lengths": lengths}
    found = flops.training(model, attachment, task, train, settings(**changes), **shared)  # type: ignore[arg-type]
    assert all(torch.equal(before[name], value) for name, value in attachment.state_dict().items())
    assert all(parameter.grad is None for parameter in (*attachment.parameters(), *model.parameters()))
    assert not attachment.module.training
    return found


def check(model: Backbone, method: str, task: Task, root: Path) -> None:
    """Both meters have a value, and the first counts of a step are those of the next."""
    with attached(model, method, task) as attachment:
        examples = task.examples("test", root, limit=None)
        found = [of_prediction(model, task, examples)]
        if methods.load(method).trains:
            found += [of_training(model, attachment, task, root) for _ in range(2)]
            assert found[1] == found[2]
    for meter in found:
        assert isinstance(meter, Scalar), meter
        assert meter.value > 0


@pytest.mark.parametrize("task_name", ["scienceqa", "coco_caption", "retrieval"])
@pytest.mark.parametrize("method", methods.names())
def test_every_method_is_counted_on_every_task(
    method: str, task_name: str, tiny_model: DecoderModel, roots: dict[str, Path]
) -> None:
    task = tasks.get(task_name, **({"max_new_tokens": 3} if task_name == "coco_caption" else {}))
    check(tiny_model, method, task, roots[task_name])


@pytest.mark.parametrize("method", ["frozen", "full", "mwa"])
def test_an_encoder_is_counted_too(method: str, roots: dict[str, Path]) -> None:
    check(tiny_beit3(), method, tasks.get("retrieval"), roots["retrieval"])


def test_what_is_computed_again_counts_and_neither_compilation_nor_micro_batches_do(
    tiny_model: DecoderModel, roots: dict[str, Path]
) -> None:
    task = tasks.get("scienceqa")
    with attached(tiny_model, "memvp", task) as attachment:
        ways: list[dict[str, Any]] = [{}, {"checkpointing": True}, {"compile": True}, {"accumulate": 2}]
        found = [of_training(tiny_model, attachment, task, roots["scienceqa"], **way) for way in ways]
    plain, again, compiled, parts = (meter.value if isinstance(meter, Scalar) else None for meter in found)
    assert plain is not None
    assert again == pytest.approx(1.35 * plain, rel=0.15)
    assert compiled == plain
    assert parts == pytest.approx(plain, rel=0.1)  # less padding


def test_the_typical_step_has_the_mean_width_and_number_of_pictures() -> None:
    lengths, pictured = [number % 50 for number in range(400)], [number % 4 == 0 for number in range(400)]
    chosen = flops.typical(lengths, pictured, settings(batch_size=8), seed=0)
    assert len(chosen) == 8
    many = flops.typical(lengths, pictured, settings(batch_size=8, steps=None, epochs=3), seed=0)
    assert sum(pictured[i] for i in many) == 2
    assert max(lengths[i] for i in many) == pytest.approx(26, abs=3)


def test_predicted_examples_stand_for_all_lengths_and_pictures() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Lengths(Say):
        def texts(self, examples: Sequence[Example], *, train: bool) -> list[tuple[str, str]]:
            return [("x" * int(e.id), "") for e in examples]

    task = Lengths()
    examples = [Example(str(number), Path("a.png") if number % 4 == 0 else None) for number in range(100)]
    with_picture, without = flops.spread(task, examples, unsaid(examples))
    assert (with_picture[0], without[0]) == (0.25, 0.75)
    assert [e.id for e in with_picture[1]] == ["24", "72"]
    assert len(without[1]) == flops.PREDICTED // 2
    texts = [replace(e, image=None) for e in examples]
    [(share, alone)] = flops.spread(task, texts, unsaid(texts))
    assert (share, [e.id for e in alone]) == (1.0, ["12", "37", "62", "87"])
    long_answers = [Prediction(e.id, "x" * 2 * (100 - int(e.id))) for e in texts]
    assert [e.id for e in flops.spread(task, texts, long_answers)[0][1]] == ["87", "62", "37", "12"]
    assert [e.id for e in flops.spread(task, texts[1:3], unsaid(texts[1:3]))[0][1]] == ["1", "2"]


def test_what_cannot_be_counted_is_null_with_its_reason_and_leaves_nothing_behind(tiny_model: DecoderModel) -> None:
    captured: list[int] = []

    @dataclass(frozen=True, kw_only=True)
    class Failing(Say):
        def predict(self, model: Any, batch: Any, examples: Sequence[Example]) -> list[Prediction]:
            captured.append(decoding.CAPTURE_FROM)
            torch.rand(1), random.random(), numpy.random.rand()
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    before, task = decoding.CAPTURE_FROM, Failing()
    streams = torch.get_rng_state().tolist(), random.getstate(), repr(numpy.random.get_state())
    examples = task.examples("test", Path(), limit=None)
    found = of_prediction(tiny_model, task, examples)
    assert isinstance(found, Unavailable)
    assert found.reason.startswith("FLOPs could not be counted: OutOfMemoryError: CUDA out of memory. Tried")
    assert captured[0] > 10**9  # no step of decoding is recorded while steps are counted
    assert before == decoding.CAPTURE_FROM
    assert streams == (torch.get_rng_state().tolist(), random.getstate(), repr(numpy.random.get_state()))


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """Those of every training from now on."""
    seen: list[list[float]] = []
    original = measuring.train

    def train(*args: Any, **options: Any) -> TrainResult:
        result = original(*args, **options)
        seen.append(result.losses)
        return result

    monkeypatch.setattr(measuring, "train", train)
    return seen


def test_counting_changes_no_loss_no_prediction_and_nothing_saved(
    tiny_folders: tuple[Path, Path],
    roots: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    losses: list[list[float]],
) -> None:
    def run(name: str) -> tuple[dict[str, bytes], list[Record]]:
        llm, vision = map(str, tiny_folders)
        results = tmp_path / name
        where = ["--llm", llm, "--vision", vision, "--data-root", str(roots["scienceqa"]), "--results", str(results)]
        chosen = ["--methods", "memvp,lora", "--task", "scienceqa", "--steps", "3", "--save", "--device", "cpu"]
        options = ["--batch-size", "4", "--set", "memvp.slots=16", "--set", "train.lr=1e-2"]
        assert cli.main(["run", *chosen, *where, *options]) == 0
        kept = [*results.rglob("*.predictions.jsonl"), *results.rglob("adapter.safetensors")]
        folders = {p.parent if p.suffix == ".jsonl" else p.parent.parent: p for p in kept}
        return {str(f.relative_to(results)): p.read_bytes() for f, p in folders.items()}, Store(results).read()

    counting, records = run("counting")
    assert all(isinstance(r.meters[name], Scalar) for r in records for name in METERS if "flops" in name)
    for name in ("training", "prediction"):
        monkeypatch.setattr(flops, name, lambda *_, **__: unavailable("not counted"))
    plain, _ = run("plain")
    assert len(plain) == 4
    assert plain == counting
    assert losses[:2] == losses[2:]


def test_flops_are_counted_once_all_else_is_measured(
    tiny_folders: tuple[Path, Path], roots: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def noted(module: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: (order.append(name), original(*a, **k))[1])

    for module, name in [(measuring, "train"), (measuring, "evaluate"), (measuring.speed, "latency")]:
        noted(module, name)
    noted(flops, "training")
    noted(flops, "prediction")
    llm, vision = map(str, tiny_folders)
    where = ["--llm", llm, "--vision", vision, "--data-root", str(roots["scienceqa"]), "--results", str(tmp_path)]
    assert cli.main(["run", "--methods", "llava,frozen", "--task", "scienceqa", "--steps", "1", *where]) == 0
    assert sorted((order[:5], order[5:]), key=len) == [
        ["evaluate", "latency", "prediction"],
        ["train", "evaluate", "latency", "training", "prediction"],
    ]
    frozen = next(record for record in Store(tmp_path).read() if record.cell.method == "frozen")
    for name in (*TRAINING, "train_flops_per_sample"):
        assert frozen.meters[name] == Unavailable(reason="not trained")
