"""Format `llama`: Meta's LLaMA 1 and 2, as LaVIN, ADEM-VL and MemVP read it, to a Hugging Face Llama folder.

    consolidated.00.pth, .01.pth, ...   the model, cut into shards: torch files, mapped into memory
    params.json                         dim, n_heads, n_layers, norm_eps; n_kv_heads and rope_theta where they differ
    tokenizer.model                     SentencePiece; copied along, from the folder or the one above it

becomes `model*.safetensors`, `config.json`, `tokenizer.model`, and `meta_llama.json` (+ `.safetensors`): what only
Meta's layout has, so that `export` gives the same tensors bit for bit. The dtype stays. `params.json` does not say how
long a context the model was trained on: `max_seq_len` where it has that, LLaMA 1's 2,048 otherwise. Memory: one file of
at most 5 GB at a time.

Token ids equal SentencePiece's but for texts that begin with a space: transformers puts no second one before them.

Source: Meta's llama/model.py; transformers' convert_llama_weights_to_hf.py.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor

from harness.checkpoints import CheckpointError, reading, writing
from harness.checkpoints.llama_names import COLUMN, ROW, WHOLE, LlamaShape, LlamaTensor, tensors, to_halves

WHAT = "a folder of consolidated.00.pth and params.json"
PARAMS, TOKENIZER = "params.json", "tokenizer.model"
META, META_TENSORS = "meta_llama.json", "meta_llama.safetensors"
IGNORED = "rope.freqs"
CONTEXT = 2048
THETA = 10_000.0
# Without a configuration transformers 5 leaves out the space that SentencePiece puts before a text: other ids.
TOKENIZER_CONFIG = {
    "tokenizer_class": "LlamaTokenizer",
    "add_prefix_space": True,
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
}
SHARD_BYTES = 5_000_000_000


def import_(source: Path, out: Path) -> None:
    """Write Meta's folder as a Hugging Face one.

    Raises:
        CheckpointError: a file that is missing or cannot be used, a missing or unknown key, a shape that differs (with
            both shapes), shards that disagree, scaled rotary positions; a place that cannot be written.
    """
    writing.check_new_folder(out)
    reading.check_folder(source, what=WHAT)
    params = _params(source / PARAMS)
    shards = [_shard(path) for path in _shard_paths(source)]
    shape, embedding_cut = _shape(params, shards, source)
    wanted = tensors(shape, embedding_cut=embedding_cut)
    _check(wanted, shards, source)
    with writing.new_folder(out) as beside:
        _write_tensors(wanted, shards, beside)
        config = _config(params, shape, dtype=shards[0]["output.weight"].dtype)
        (beside / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        cut = {"shards": len(shards), "embedding_cut": embedding_cut, "params": params}
        (beside / META).write_text(json.dumps(cut, indent=2) + "\n", encoding="utf-8")
        if IGNORED in shards[0]:
            save_file({IGNORED: shards[0][IGNORED].clone()}, beside / META_TENSORS)
        _copy_tokenizer(source, beside)


def _params(path: Path) -> dict[str, Any]:
    params = reading.json_file(path, what=WHAT)
    for name in ("dim", "n_heads", "n_layers"):
        reading.number(params, name, where=path, whole=True)
    for name, default in (("n_kv_heads", params["n_heads"]), ("max_seq_len", CONTEXT)):
        reading.number(params, name, where=path, default=default, whole=True)
    for name, theta in (("norm_eps", None), ("rope_theta", THETA)):
        reading.number(params, name, where=path, default=theta)
    if params["dim"] % params["n_heads"]:
        raise CheckpointError(f"{path}: dim {params['dim']} is no multiple of n_heads {params['n_heads']}")
    if params.get("use_scaled_rope"):
        raise CheckpointError(f"{path}: use_scaled_rope (LLaMA 3.1) is not read; take Meta's Hugging Face folder")
    return params


def _shard_paths(source: Path) -> list[Path]:
    paths = sorted(path for path in source.glob("consolidated.*.pth") if re.fullmatch(r"\D+\d+\.pth", path.name))
    for number in range(max(len(paths), 1)):
        if (expected := source / f"consolidated.{number:02}.pth") not in paths:
            raise CheckpointError(f"{expected}: no such file; give {WHAT}")
    return paths


def _shard(path: Path) -> Mapping[str, Tensor]:
    return reading.named_tensors(path, what="a consolidated.*.pth of LLaMA")


def _shape(params: Mapping[str, Any], shards: Sequence[Mapping[str, Tensor]], source: Path) -> tuple[LlamaShape, int]:
    """Sizes, and how the token embeddings are cut: FFN and vocabulary only the tensors know."""
    first, name = shards[0], "layers.0.feed_forward.w1.weight"
    for needed in ("tok_embeddings.weight", "output.weight", name):
        if needed not in first or first[needed].ndim != 2:
            raise CheckpointError(f"{source / 'consolidated.00.pth'}: no matrix {needed!r}; give a whole LLaMA")
    if params["n_layers"] > len(first):
        raise CheckpointError(f"{source / PARAMS}: n_layers {params['n_layers']} are more than consolidated.00.pth has")
    sizes = LlamaShape(
        dim=params["dim"],
        layers=params["n_layers"],
        heads=params["n_heads"],
        kv_heads=params.get("n_kv_heads") or params["n_heads"],
        ffn=len(first[name]) * len(shards),
        vocab=len(first["output.weight"]) * len(shards),
    )
    return sizes, COLUMN if len(shards) > 1 and first["tok_embeddings.weight"].shape[1] == sizes.dim else ROW


def _check(wanted: Sequence[LlamaTensor], shards: Sequence[Mapping[str, Tensor]], source: Path) -> None:
    """Hold the names and shapes of every shard against the model's, before anything is written."""
    names = {tensor.meta for tensor in wanted}
    for number, shard in enumerate(shards):
        path = source / f"consolidated.{number:02}.pth"
        if missing := sorted(names - set(shard)):
            raise CheckpointError(f"{path}: lacks {missing[0]!r} (and {len(missing) - 1} more); give a whole LLaMA")
        if extra := sorted(set(shard) - names - {IGNORED}):
            raise CheckpointError(f"{path}: has unknown {extra[0]!r} (and {len(extra) - 1} more); give a plain LLaMA")
        for tensor in wanted:
            expected = part_shape(tensor, len(shards))
            if shard[tensor.meta].shape != expected:
                raise CheckpointError(
                    f"{path}: {tensor.meta!r} has shape {tuple(shard[tensor.meta].shape)}, expected {expected} of "
                    f"{len(shards)} shards with this {PARAMS}; give all shards and their own {PARAMS}"
                )
            if shard[tensor.meta].dtype != shards[0][tensor.meta].dtype or not shard[tensor.meta].is_floating_point():
                raise CheckpointError(
                    f"{path}: {tensor.meta!r} is of type {shard[tensor.meta].dtype}; convert it first"
                )
            if tensor.cut is WHOLE and not torch.equal(shard[tensor.meta], shards[0][tensor.meta]):
                raise CheckpointError(
                    f"{path}: {tensor.meta!r} is not that of consolidated.00.pth; copy the shards again"
                )


def part_shape(tensor: LlamaTensor, shards: int) -> tuple[int, ...]:
    """Of one of Meta's shards."""
    return tuple(size // shards if dim == tensor.cut else size for dim, size in enumerate(tensor.shape))


def _write_tensors(wanted: Sequence[LlamaTensor], shards: Sequence[Mapping[str, Tensor]], folder: Path) -> None:
    """Files of at most `SHARD_BYTES`, made one after the other, and the index that `from_pretrained` reads."""
    by_name = {tensor.hugging_face: tensor for tensor in wanted}
    shapes = {
        name: torch.empty(tensor.shape, dtype=shards[0][tensor.meta].dtype, device="meta")
        for name, tensor in by_name.items()
    }
    plan = split_torch_state_dict_into_shards(shapes, max_shard_size=SHARD_BYTES)
    for file, names in plan.filename_to_tensors.items():
        save_file({name: _whole(by_name[name], shards) for name in names}, folder / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _whole(tensor: LlamaTensor, shards: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """One tensor from its parts; a copy, as the parts lie in mapped files."""
    parts = [shard[tensor.meta] for shard in shards]
    whole = parts[0].clone() if tensor.cut is WHOLE else torch.cat(parts, dim=tensor.cut)
    return whole if tensor.rotary_heads is None else to_halves(whole, tensor.rotary_heads)


def _copy_tokenizer(source: Path, folder: Path) -> None:
    """The tokenizer beside the shards or, failing that, above them, and how transformers is to read it."""
    found = [path for path in (source / TOKENIZER, source.resolve().parent / TOKENIZER) if path.is_file()]
    if found:
        shutil.copyfile(found[0], folder / TOKENIZER)
        (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=2) + "\n", encoding="utf-8")


def _config(params: Mapping[str, Any], shape: LlamaShape, *, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": str(dtype).removeprefix("torch."),
        "vocab_size": shape.vocab,
        "hidden_size": shape.dim,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": params["norm_eps"],
        "max_position_embeddings": params.get("max_seq_len") or CONTEXT,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(params.get("rope_theta") or THETA)},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
