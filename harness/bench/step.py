"""`bench step`: a training step and an evaluation of ADEM-VL against the slow way."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import methods
from harness import backbones
from harness.backbones import BackboneSpec, Precision
from harness.backbones.decoder import DecoderModel
from harness.backbones.encoding import IGNORED
from harness.backbones.inputs import Inputs
from harness.bench import ceiling, naive
from harness.bench.result import BenchError, Case, at_least, below, rows
from harness.bench.timing import Timing, alternate
from harness.record import distribution, unavailable
from methods import Attachment, Batch, Handle, Method
from methods.kernels import Kernels
from methods.kernels.memory_read import Implementation, memory_read
from methods.kernels.memory_read import unavailable as without_kernels
from methods.layers import Memory

Step = tuple[Tensor, list[Tensor]]
"""What a training step computes: the loss, and the gradient of each trained parameter."""
NAIVE = "naive, fp32"
LABELLED = 8  # tokens of an answer; prompts are far longer


@dataclass(frozen=True)
class Setting:
    """Which shapes are timed, and how large a batch."""

    spec: BackboneSpec
    batch: int
    tokens: int
    questions: int
    prompt: int
    rounds: int


SETTINGS = {
    "cpu": Setting(BackboneSpec("smol", weights="random"), batch=8, tokens=192, questions=16, prompt=64, rounds=2),
    "cuda": Setting(
        BackboneSpec("llama-7b", weights="random"), batch=16, tokens=256, questions=16, prompt=128, rounds=10
    ),
    "reduced": Setting(BackboneSpec("mini"), batch=2, tokens=24, questions=2, prompt=16, rounds=1),
}


def run(device: torch.device, *, reduced: bool) -> list[Case]:
    """The cases of this device.

    Raises:
        BenchError: the fast step's loss or gradients, or its choices, are not those of the slow one.
    """
    setting = SETTINGS["reduced" if reduced else device.type]
    cases = []
    if reduced or device.type == "cpu":
        cases += [_small_step(setting, device), _evaluation(setting, device)]
    if reduced or device.type == "cuda":
        cases.append(_large_step(setting, device, reduced=reduced))
    return cases


def method_for(model: DecoderModel) -> Method:
    """ADEM-VL with the paper's settings, its scales fitted to the patch grid."""
    patches = model.shape.patches
    return methods.get("ademvl", scales=(patches, patches // 4), vision_dropout=0.0)


def text_batch(model: DecoderModel, rows: int, tokens: int, *, labelled: int = LABELLED) -> Batch:
    """Random tokens of one length, labels on the last ones, and a random picture for every row."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, min(260, model.shape.vocab), (rows, tokens), generator=generator)
    ids[:, : len(model.text.bos)] = torch.tensor(model.text.bos, dtype=torch.long)
    labels = ids.clone()
    labels[:, : tokens - labelled] = IGNORED
    pixels = torch.randn(rows, 3, model.image_size, model.image_size, generator=generator)
    parts = (ids, torch.full((rows,), tokens), labels, pixels, torch.arange(rows))
    return Batch(*(part.to(model.device) for part in parts))


def load(setting: Setting, device: torch.device, precision: Precision) -> DecoderModel:
    """The backbone of a setting."""
    model = backbones.load(setting.spec, device=str(device), precision=precision)
    if not isinstance(model, DecoderModel):
        raise TypeError(f"the benchmark needs a decoder, got {type(model).__name__}")
    return model


def _forward_backward(model: DecoderModel, attachment: Attachment, batch: Batch) -> Step:
    """The loss and the gradients of everything trained."""
    loss = _loss(model, batch)
    grads = torch.autograd.grad(loss, list(attachment.parameters()), allow_unused=True)
    return loss.detach(), [grad for grad in grads if grad is not None]


def _with_frozen_gradients(model: DecoderModel, attachment: Attachment, batch: Batch) -> Step:
    """As `_forward_backward`, where nobody has told torch which weights are frozen: they get gradients for nothing."""
    trained, frozen = list(attachment.parameters()), model.parameters()
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        loss = _loss(model, batch)
        grads = torch.autograd.grad(loss, [*trained, *frozen], allow_unused=True)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    return loss.detach(), [grad for grad in grads[: len(trained)] if grad is not None]


def _loss(model: DecoderModel, batch: Batch) -> Tensor:
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=model.dtype == torch.bfloat16):
        return model.loss(batch)


def training_rivals(setting: Setting, device: torch.device) -> dict[str, Callable[[], Step]]:
    """The same training step of ADEM-VL done in several ways, the naive one first."""
    slow = naive.NaiveDecoder.of(load(setting, device, "fp32"))
    fast, half = load(setting, device, "fp32"), load(setting, device, "bf16")
    method, batch = method_for(slow), text_batch(slow, setting.batch, setting.tokens)
    naively = naive.attach(method, slow, 0)
    return {
        NAIVE: functools.partial(_with_frozen_gradients, slow, naively, batch),
        "naive, but no gradient into frozen weights, fp32": functools.partial(_forward_backward, slow, naively, batch),
        "fast, fp32": functools.partial(_forward_backward, fast, method.attach(fast, 0), batch),
        "fast, bf16": functools.partial(_forward_backward, half, method.attach(half, 0), batch),
    }


def _small_step(setting: Setting, device: torch.device) -> Case:
    runs = training_rivals(setting, device)
    exact, *others = (run() for run in runs.values())
    for name, found in zip(list(runs)[1:], others, strict=True):
        _check_step(exact, found, name, loss=2e-2 if "bf16" in name else 1e-4, grads=0.2 if "bf16" in name else 1e-3)
    timings = alternate(runs, device=device, rounds=setting.rounds, warm_up=0)
    median = {name: timing.ms.median for name, timing in timings.items()}
    targets = [
        at_least("fast against naive, fp32", median[NAIVE] / median["fast, fp32"], 1.8),
        at_least("fast in bf16 against naive in fp32", median[NAIVE] / median["fast, bf16"], 5),
    ]
    said = conditions(setting.spec.name, device, B=setting.batch, T=setting.tokens, labelled=LABELLED)
    goals = targets if setting is SETTINGS["cpu"] else ()
    return Case("training step of ADEM-VL, forward + backward", said, rows(timings), goals)


def _check_step(slow: Step, fast: Step, name: str, *, loss: float, grads: float) -> None:
    """Both within these shares of the naive step's."""
    found, exact = float(fast[0]), float(slow[0])
    if not abs(found - exact) <= loss * abs(exact):
        raise BenchError(f"{name}: the loss is {found:.6f}, the naive step's {exact:.6f}")
    size = torch.stack([grad.norm() for grad in slow[1]]).norm()
    apart = torch.stack([(a - b).norm() for a, b in zip(slow[1], fast[1], strict=True)]).norm()
    if not apart <= grads * size:
        raise BenchError(f"{name}: the gradients are off by {float(apart / size):.2e} of their norm")


def evaluation_rivals(setting: Setting, device: torch.device) -> dict[str, Callable[[], list[list[float]]]]:
    """The likelihoods of the same choices of the same questions, one by one and batched."""
    fast, loaded = load(setting, device, "fp32"), load(setting, device, "fp32")
    slow = naive.NaiveDecoder.of(loaded)
    batch = text_batch(fast, setting.questions, setting.prompt, labelled=0)
    choices = [["A", "B", "C", "D"]] * setting.questions
    method_for(fast).attach(fast, 0)
    naive.attach(method_for(slow), slow, 0)
    return {
        "one by one, full logits": functools.partial(slow.continuation_logprobs, batch, choices),
        f"batch of {setting.questions}": functools.partial(fast.continuation_logprobs, batch, choices),
    }


def _evaluation(setting: Setting, device: torch.device) -> Case:
    runs = evaluation_rivals(setting, device)
    scores = [torch.tensor(run()) for run in runs.values()]
    apart = float((scores[0] - scores[1]).abs().max())
    if not apart <= 1e-3:
        raise BenchError(f"choice likelihoods differ by {apart:.2e}")
    timings = alternate(runs, device=device, rounds=setting.rounds, warm_up=0)
    slowest, fastest = (timing.ms.median for timing in timings.values())
    said = conditions(
        setting.spec.name, device, questions=setting.questions, choices=4, T=setting.prompt, dtype="float32"
    )
    goal = at_least("batched evaluation against one by one", slowest / fastest, 4)
    goals = [goal] if setting is SETTINGS["cpu"] else ()
    return Case("evaluation by choice likelihood", said, rows(timings), goals)


def _large_step(setting: Setting, device: torch.device, *, reduced: bool) -> Case:
    """The step at the size of the papers: share of the matrix product rate, and what the fusion adds to the LLM."""
    model = load(setting, device, "fp32" if reduced else "bf16")
    batch = text_batch(model, setting.batch, setting.tokens)
    impl: Implementation = "auto" if without_kernels(device) else "triton"
    _check_kernels(model, batch, impl)
    own = functools.partial(_language_step, model, batch)
    limits = ceiling.measure(device, model.dtype, reduced=reduced)
    plain, fused = [], []
    for _ in range(setting.rounds):
        plain.append(alternate({"llm": own}, device=device, rounds=3)["llm"].ms.median)
        handles = _fusion(model, batch, impl)
        fused.append(alternate({"llm": own}, device=device, rounds=3)["llm"].ms.median)
        for handle in handles:
            handle.remove()
    attachment = method_for(model).attach(model, 0)
    whole = functools.partial(_forward_backward, model, attachment, batch)
    with FlopCounterMode(display=False) as counter:
        whole()
    flops = counter.get_total_flops()
    timings = alternate({"ADEM-VL's whole step": whole}, device=device, rounds=setting.rounds)
    used = 100 * flops / (timings["ADEM-VL's whole step"].ms.median / 1e3) / limits.matmul_flops_per_s
    added = 100 * (statistics.median(fused) / statistics.median(plain) - 1)
    timings["the LLM alone"] = Timing(distribution(plain, "ms"), unavailable("not read"))
    timings["the LLM with the fusion"] = Timing(distribution(fused, "ms"), unavailable("not read"))
    targets = [
        at_least("share of the measured matrix product rate (FLOPs counted by torch)", used, 45, "%"),
        below("time that the fusion adds to the LLM's own step", added, 3, "%"),
    ]
    said = conditions(
        model.name, device, B=setting.batch, T=setting.tokens, dtype=str(model.dtype).removeprefix("torch.")
    )
    said["kernels"] = ", ".join(sorted(model.kernels.ran))
    figures = {"flops": float(flops), "matmul_flops_per_s": limits.matmul_flops_per_s}
    goals = () if reduced else targets
    return Case("training step of ADEM-VL against the language model's own", said, rows(timings), goals, (), figures)


def _check_kernels(model: DecoderModel, batch: Batch, impl: Implementation) -> None:
    """The loss by the reference and by `impl`, which the model uses from now on."""
    losses = []
    for kernels in (Kernels("reference"), Kernels(impl)):
        model.kernels = kernels
        attachment = method_for(model).attach(model, 0)
        losses.append(float(_forward_backward(model, attachment, batch)[0]))
        attachment.detach()
    if not abs(losses[1] - losses[0]) <= (1e-5 + 2 * torch.finfo(model.dtype).eps) * losses[0]:
        raise BenchError(f"the loss is {losses[1]:.6f} by {impl}, {losses[0]:.6f} by the reference")


def _language_step(model: DecoderModel, batch: Batch) -> None:
    """Forward and backward of the language model alone, down to its input."""
    embeds = model.llm.get_input_embeddings()(batch.input_ids).detach().requires_grad_()
    visual = torch.zeros_like(batch.input_ids, dtype=torch.bool)
    loss = model.loss_of(Inputs(embeds, batch.lengths, batch.labels, visual))
    loss.backward()


def _fusion(model: DecoderModel, batch: Batch, impl: Implementation) -> list[Handle]:
    """ADEM-VL's read beside every FFN, of a memory that is there already and takes gradients."""
    slots = sum(method_for(model).scales)  # type: ignore[attr-defined]
    shape = (len(batch.input_ids), slots, model.shape.llm_width)
    memory = Memory()
    made = [torch.randn(shape, device=model.device, dtype=model.dtype).mul_(0.02) for _ in range(2)]
    memory.write(*(part.requires_grad_() for part in made))

    def fuse(x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return memory_read(x, keys, values, form="adem", drop_ratio=0.1, scale=0.1, impl=impl)

    return [model.on_ffn("llm", layer, memory.reader(fuse)) for layer in range(model.shape.llm_layers)]


def conditions(shapes: str, device: torch.device, **given: object) -> dict[str, object]:
    """What a table says of the backbone and the sizes."""
    return {"shapes": shapes, "device": device.type, **given}
