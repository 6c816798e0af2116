"""`bench decode`: time per new token at batch 1, against reading every weight once."""

from __future__ import annotations

import functools

import torch

from harness.backbones.decoder import DecoderModel
from harness.backbones.decoding import GreedySteps, greedy
from harness.bench import ceiling
from harness.bench.result import BenchError, Case, below, rows
from harness.bench.step import SETTINGS, conditions, load, method_for, text_batch
from harness.bench.timing import alternate
from methods import Batch

TOKENS = 8
ROOM = 64  # tokens that may follow the prompt: as many as the timed steps make, and some


def run(device: torch.device, *, reduced: bool) -> list[Case]:
    """Greedy decoding with a cache, by reading the whole text anew for every token, and one step of it alone.

    Raises:
        BenchError: a token that is chosen with a cache is not the likeliest without one.
    """
    setting = SETTINGS["reduced" if reduced else device.type]
    model = load(setting, device, "fp32" if device.type == "cpu" else "bf16")
    method_for(model).attach(model, 0)
    batch = text_batch(model, 1, setting.prompt, labelled=0)
    count = 4 if reduced else TOKENS
    cached = functools.partial(greedy, model, batch, max_new_tokens=count)
    anew = functools.partial(_without_cache, model, batch, count)
    _check(model, batch, cached()[0])
    prefill = functools.partial(model.prefill, batch)
    timings = alternate(
        {f"{count} tokens, without a cache": anew, f"{count} tokens, greedy": cached, "prefill": prefill},
        device=device,
        rounds=setting.rounds,
    )
    one = GreedySteps(model, model.prefill(batch), room=ROOM)
    timings |= alternate({"one token, greedy": one.advance}, device=device, rounds=setting.rounds, calls=4)
    limits = ceiling.measure(device, model.dtype, reduced=reduced)
    weights = sum(p.numel() * p.element_size() for p in model.llm.parameters())
    per_token = timings["one token, greedy"].ms.median
    bound = 1e3 * weights / limits.copy_bytes_per_s
    goals = [below("time per token over weight bytes / copy bandwidth", per_token / bound, 1.5, "x")]
    figures = {"weight_bytes": float(weights), "copy_bytes_per_s": limits.copy_bytes_per_s, "ms_per_token": per_token}
    said = conditions(model.name, device, B=1, prompt=setting.prompt, new_tokens=count)
    return [
        Case(
            "greedy decoding", said, rows(timings), goals if device.type == "cuda" and not reduced else (), (), figures
        )
    ]


def _check(model: DecoderModel, batch: Batch, chosen: list[int]) -> None:
    """Of nearly equal logits either may win, by as much as the dtype rounds them."""
    with torch.inference_mode():
        logits = model.logits(_longer(batch, chosen))[0].double()
    after = logits[-len(chosen) - 1 : -1]
    lost = after.amax(dim=1) - after[torch.arange(len(chosen)), torch.tensor(chosen)]
    allowed = 8 * torch.finfo(model.dtype).eps * float(after.abs().max())
    if not float(lost.max()) <= allowed:
        raise BenchError(f"a token chosen with a cache is {float(lost.max()):.2e} below the likeliest one without")


@torch.inference_mode()
def _without_cache(model: DecoderModel, batch: Batch, count: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(count):
        chosen.append(int(model.logits(_longer(batch, chosen))[0, -1].argmax()))
    return chosen


def _longer(batch: Batch, tokens: list[int]) -> Batch:
    """A batch of one row with more tokens at its end."""
    added = torch.tensor([tokens], dtype=torch.long, device=batch.input_ids.device)
    ids = torch.cat([batch.input_ids, added], dim=1)
    return Batch(ids, batch.lengths + len(tokens), ids, batch.pixel_values, batch.image_rows)
