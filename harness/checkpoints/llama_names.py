"""Meta's LLaMA and Hugging Face's Llama, tensor by tensor: names, shapes, how Meta cuts them, how rotary pairs lie.

Meta rotates neighbouring pairs of a head's channels (2i, 2i + 1), Hugging Face channel i with i + half of the head, so
that the rows of wq and wk change places. Nothing is computed: the tensors are the same numbers in another order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

COLUMN, ROW, WHOLE = 0, 1, None
"""Along which dimension Meta cuts a tensor into shards; WHOLE ones are in every shard."""

_LAYER = {
    "attention_norm": ("input_layernorm", WHOLE),
    "attention.wq": ("self_attn.q_proj", COLUMN),
    "attention.wk": ("self_attn.k_proj", COLUMN),
    "attention.wv": ("self_attn.v_proj", COLUMN),
    "attention.wo": ("self_attn.o_proj", ROW),
    "ffn_norm": ("post_attention_layernorm", WHOLE),
    "feed_forward.w1": ("mlp.gate_proj", COLUMN),
    "feed_forward.w2": ("mlp.down_proj", ROW),
    "feed_forward.w3": ("mlp.up_proj", COLUMN),
}


@dataclass(frozen=True)
class LlamaShape:
    """Sizes of a model: D, layers, heads, heads of keys and values, width of the FFN, vocabulary."""

    dim: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.dim // self.heads


@dataclass(frozen=True)
class LlamaTensor:
    """One tensor: both names, its whole shape, the dimension Meta cuts it along, and its heads if they are rotated."""

    meta: str
    hugging_face: str
    shape: tuple[int, ...]
    cut: int | None
    rotary_heads: int | None = None


def tensors(shape: LlamaShape, *, embedding_cut: int) -> list[LlamaTensor]:
    """Every tensor of a model; Meta cuts the token embeddings along D (ROW), since LLaMA 3 along V (COLUMN)."""
    dim, ffn, kv = shape.dim, shape.ffn, shape.kv_heads * shape.head_dim
    sizes: Mapping[str, tuple[int, ...]] = {
        "attention_norm": (dim,),
        "attention.wq": (dim, dim),
        "attention.wk": (kv, dim),
        "attention.wv": (kv, dim),
        "attention.wo": (dim, dim),
        "ffn_norm": (dim,),
        "feed_forward.w1": (ffn, dim),
        "feed_forward.w2": (dim, ffn),
        "feed_forward.w3": (ffn, dim),
    }
    heads = {"attention.wq": shape.heads, "attention.wk": shape.kv_heads}
    found = [LlamaTensor("tok_embeddings.weight", "model.embed_tokens.weight", (shape.vocab, dim), embedding_cut)]
    for layer in range(shape.layers):
        for meta, (ours, cut) in _LAYER.items():
            names = (f"layers.{layer}.{meta}.weight", f"model.layers.{layer}.{ours}.weight")
            found.append(LlamaTensor(*names, sizes[meta], cut, heads.get(meta)))
    found.append(LlamaTensor("norm.weight", "model.norm.weight", (dim,), WHOLE))
    return [*found, LlamaTensor("output.weight", "lm_head.weight", (shape.vocab, dim), COLUMN)]


def to_halves(weight: Tensor, heads: int) -> Tensor:
    """[heads * head_dim, D] with rotary pairs side by side, as Hugging Face has them: half a head apart."""
    return weight.reshape(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def to_pairs(weight: Tensor, heads: int) -> Tensor:
    """The way back of `to_halves`."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
