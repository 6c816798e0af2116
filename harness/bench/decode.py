"""`bench decode`: time per new token at batch 1, against reading every weight once."""

from __future__ import annotations

import functools

import torch

from harness.backbones.decoder import DecoderModel
from harness.backbones.decoding import greedy
from harness.bench import ceiling
from harness.bench.result import BenchError, Case, below, rows
from harness.bench.step import SETTINGS, conditions, load, method_for, text_batch
from harness.bench.timing import alternate
from methods import Batch

TOKENS = 16


def run(device: torch.device, *, reduced: bool) -> list[Case]:
    """Greedy decoding with a cache, and by reading the whole text anew for every token.

    Raises:
        BenchError: the two choose different tokens.
    """
    setting = SETTINGS["reduced" if reduced else device.type]
    model = load(setting, device, "fp32" if device.type == "cpu" else "bf16")
    method_for(model).attach(model, 0)
    batch = text_batch(model, 1, setting.prompt, labelled=0)
    count = 4 if reduced else TOKENS
    cached = functools.partial(greedy, model, batch, max_new_tokens=count)
    anew = functools.partial(_without_cache, model, batch, count)
    if cached() != anew():
        raise BenchError("greedy decoding with a cache chooses other tokens than without")
    prefill = functools.partial(model.prefill, batch)
    timings = alternate(
        {"without a cache": anew, "greedy": cached, "prefill": prefill}, device=device, rounds=setting.rounds
    )
    limits = ceiling.measure(device, model.dtype, reduced=reduced)
    weights = sum(p.numel() * p.element_size() for p in model.llm.parameters())
    per_token = (timings["greedy"].ms.median - timings["prefill"].ms.median) / (count - 1)
    bound = 1e3 * weights / limits.copy_bytes_per_s
    goals = [below("time per token over weight bytes / copy bandwidth", per_token / bound, 1.5, "x")]
    figures = {"weight_bytes": float(weights), "copy_bytes_per_s": limits.copy_bytes_per_s, "ms_per_token": per_token}
    said = conditions(model, device, B=1, prompt=setting.prompt, new_tokens=count)
    return [
        Case(
            "greedy decoding", said, rows(timings), goals if device.type == "cuda" and not reduced else (), (), figures
        )
    ]


@torch.inference_mode()
def _without_cache(model: DecoderModel, batch: Batch, count: int) -> list[list[int]]:
    chosen: list[int] = []
    for _ in range(count):
        ids = torch.cat([batch.input_ids, torch.tensor([chosen], dtype=torch.long, device=model.device)], dim=1)
        longer = Batch(ids, batch.lengths + len(chosen), ids, batch.pixel_values, batch.image_rows)
        chosen.append(int(model.logits(longer)[0, -1].argmax()))
    return [chosen]
