"""Meta's LLaMA in few lines, to compare with: complex rotary positions on neighbouring channels, folders of shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

PARAMS: dict[str, Any] = {
    "dim": 32, "multiple_of": 16, "n_heads": 4, "n_layers": 2, "norm_eps": 1e-5, "vocab_size": -1
}  # fmt: skip
FFN, VOCAB = 96, 40


def random_model(params: dict[str, Any] = PARAMS, *, ffn: int = FFN, vocab: int = VOCAB) -> dict[str, Tensor]:
    """All tensors of a model under Meta's names."""
    generator = torch.Generator().manual_seed(0)
    dim = params["dim"]
    kv = dim // params["n_heads"] * params.get("n_kv_heads", params["n_heads"])
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (vocab, dim), "norm.weight": (dim,)}
    for layer in range(params["n_layers"]):
        sizes = {"wq": (dim, dim), "wk": (kv, dim), "wv": (kv, dim), "wo": (dim, dim)}
        shapes |= {f"layers.{layer}.attention.{name}.weight": size for name, size in sizes.items()}
        sizes = {"w1": (ffn, dim), "w2": (dim, ffn), "w3": (ffn, dim)}
        shapes |= {f"layers.{layer}.feed_forward.{name}.weight": size for name, size in sizes.items()}
        shapes |= {f"layers.{layer}.{name}_norm.weight": (dim,) for name in ("attention", "ffn")}
    shapes["output.weight"] = (vocab, dim)
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


def cut(state: dict[str, Tensor], shards: int, *, embedding_dim: int = 1) -> list[dict[str, Tensor]]:
    """Shards as fairscale's column-parallel (rows of a weight) and row-parallel layers (columns) hold them."""
    by_rows = ("wq", "wk", "wv", "w1", "w3", "output")
    found: list[dict[str, Tensor]] = [{} for _ in range(shards)]
    for name, tensor in state.items():
        short = name.split(".")[-2]
        dim = embedding_dim if short == "tok_embeddings" else 0 if short in by_rows else 1
        parts = [tensor] * shards if "norm" in name else tensor.chunk(shards, dim=dim)
        for shard, part in zip(found, parts, strict=True):
            shard[name] = part.clone()
    return found


def write(folder: Path, shards: list[dict[str, Tensor]], params: dict[str, Any] = PARAMS) -> Path:
    """A folder as Meta distributes it."""
    folder.mkdir()
    for number, shard in enumerate(shards):
        torch.save(shard, folder / f"consolidated.{number:02}.pth")
    (folder / "params.json").write_text(json.dumps(params), encoding="utf-8")
    return folder


def read(folder: Path) -> list[dict[str, Tensor]]:
    """Every shard of a folder."""
    return [torch.load(path, weights_only=True) for path in sorted(folder.glob("*.pth"))]


def logits(state: dict[str, Tensor], ids: Tensor, params: dict[str, Any] = PARAMS) -> Tensor:
    """[B, T] ids to [B, T, V] logits. Source: Meta's llama/model.py, read and written down anew."""
    heads, (_, length) = params["n_heads"], ids.shape
    kv_heads, width = params.get("n_kv_heads", heads), params["dim"] // heads
    theta = params.get("rope_theta", 10000.0)
    frequencies = theta ** -(torch.arange(0, width, 2) / width)
    turns = torch.outer(torch.arange(length), frequencies)
    turns = torch.polar(torch.ones_like(turns), turns)[None, :, None]
    x = state["tok_embeddings.weight"][ids]

    def norm(x: Tensor, name: str) -> Tensor:
        return x * (x.pow(2).mean(-1, keepdim=True) + params["norm_eps"]).rsqrt() * state[f"{name}.weight"]

    def project(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T

    def rotate(x: Tensor) -> Tensor:
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns).flatten(3)

    for layer in range(params["n_layers"]):
        here = f"layers.{layer}."
        read_ = norm(x, f"{here}attention_norm")
        q, k, v = (
            project(read_, f"{here}attention.{name}").unflatten(-1, (count, width))
            for name, count in (("wq", heads), ("wk", kv_heads), ("wv", kv_heads))
        )
        q, k = rotate(q), rotate(k)
        k, v = (part.repeat_interleave(heads // kv_heads, dim=2).transpose(1, 2) for part in (k, v))
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, is_causal=True)
        x = x + project(mixed.transpose(1, 2).flatten(2), f"{here}attention.wo")
        read_ = norm(x, f"{here}ffn_norm")
        gated = F.silu(project(read_, f"{here}feed_forward.w1")) * project(read_, f"{here}feed_forward.w3")
        x = x + project(gated, f"{here}feed_forward.w2")
    return project(norm(x, "norm"), "output")
