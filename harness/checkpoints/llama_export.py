"""Format `llama`, the way back: a Hugging Face Llama folder to Meta's `consolidated.*.pth` and `params.json`.

A folder that `llama.import_` wrote gets its own shards and `params.json` again; any other one file, and a `params.json`
made from its config. Memory: one of Meta's shards at a time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from harness.checkpoints import CheckpointError, reading, writing
from harness.checkpoints.llama import IGNORED, META, META_TENSORS, PARAMS, THETA, TOKENIZER, part_shape
from harness.checkpoints.llama_names import COLUMN, ROW, WHOLE, LlamaShape, LlamaTensor, tensors, to_pairs
from tasks.io.files import is_bare

WHAT = "a Hugging Face Llama folder with config.json and safetensors weights"
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
SIZES = {
    "dim": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "ffn": "intermediate_size",
    "vocab": "vocab_size",
}
MULTIPLE = 256


def export(source: Path, out: Path) -> None:
    """Write a Hugging Face folder as Meta's.

    Raises:
        CheckpointError: no such folder, not a plain Llama, a missing or unknown key, a shape that differs (with both
            shapes), a damaged file; a place that cannot be written.
    """
    writing.check_new_folder(out)
    reading.check_folder(source, what=WHAT)
    config = reading.json_file(source / "config.json", what=WHAT)
    shape = _shape(config, source / "config.json")
    shards, embedding_cut, params = _meta(source, shape, config)
    files = _files(source)
    if shape.layers > len(files):
        raise CheckpointError(f"{source / 'config.json'}: has more layers ({shape.layers}) than there are weights")
    wanted = tensors(shape, embedding_cut=embedding_cut)
    _check(wanted, files, shards, tied=bool(config.get("tie_word_embeddings")), source=source)
    extra = reading.safetensors_file(source / META_TENSORS, what=WHAT) if (source / META_TENSORS).is_file() else {}
    with writing.new_folder(out) as beside:
        for number in range(shards):
            parts = {tensor.meta: _part(tensor, files, number, shards) for tensor in wanted}
            rope = {IGNORED: extra[IGNORED]} if IGNORED in extra else {}
            torch.save(parts | rope, beside / f"consolidated.{number:02}.pth")
            del parts
        (beside / PARAMS).write_text(json.dumps(params) + "\n", encoding="utf-8")
        if (source / TOKENIZER).is_file():
            shutil.copyfile(source / TOKENIZER, beside / TOKENIZER)


def _shape(config: Mapping[str, Any], path: Path) -> LlamaShape:
    if config.get("model_type") != "llama":
        raise CheckpointError(f"{path}: model_type is {config.get('model_type')!r}, not 'llama'; give {WHAT}")
    rope = _rope(config, path)
    for name, value in (
        ("rope_type", rope.get("rope_type", "default")),
        ("hidden_act", config.get("hidden_act", "silu")),
    ):
        if value not in ("default", "silu"):
            raise CheckpointError(f"{path}: {name} is {value!r}, which Meta's layout cannot say")
    for name in ("attention_bias", "mlp_bias"):
        if config.get(name):
            raise CheckpointError(f"{path}: {name} is set, which Meta's layout has no tensors for")
    config = {"num_key_value_heads": config.get("num_attention_heads"), **config}
    for name in SIZES.values():
        reading.number(config, name, where=path, whole=True)
    shape = LlamaShape(**{ours: config[name] for ours, name in SIZES.items()})
    if shape.dim % shape.heads:
        raise CheckpointError(f"{path}: hidden_size {shape.dim} is no multiple of {shape.heads} heads")
    head_dim = reading.number(config, "head_dim", where=path, default=shape.head_dim, whole=True)
    if head_dim * shape.heads != shape.dim:
        raise CheckpointError(f"{path}: head_dim {head_dim} x {shape.heads} heads is not hidden_size {shape.dim}")
    return shape


def _rope(config: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise CheckpointError(f"{path}: rope_parameters must be an object, got {rope!r}")
    return rope


def _meta(source: Path, shape: LlamaShape, config: Mapping[str, Any]) -> tuple[int, int, dict[str, Any]]:
    """Shards, the cut of the embeddings and `params.json`: as they were, or one shard and what the config says."""
    path = source / META
    if not path.is_file():
        return 1, ROW, _params(shape, config, source / "config.json")
    found = reading.json_file(path, what=WHAT)
    shards, cut, params = (found.get(name) for name in ("shards", "embedding_cut", "params"))
    if type(shards) is not int or shards < 1 or cut not in (COLUMN, ROW) or not isinstance(params, dict):
        raise CheckpointError(f"{path}: not as vltune wrote it; delete it to get a single shard")
    return shards, cut, params


def _params(shape: LlamaShape, config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Meta computes the width of the FFN from `multiple_of` (and, since LLaMA 2, `ffn_dim_multiplier`)."""
    params: dict[str, Any] = {
        "dim": shape.dim,
        "multiple_of": MULTIPLE,
        "n_heads": shape.heads,
        "n_layers": shape.layers,
        "norm_eps": float(reading.number(config, "rms_norm_eps", where=path, default=1e-6)),
        "vocab_size": shape.vocab,
    }
    plain = 8 * shape.dim // 3
    if -(-plain // MULTIPLE) * MULTIPLE != shape.ffn:
        params["multiple_of"] = 1
        params["ffn_dim_multiplier"] = (shape.ffn + 0.5) / plain  # Meta rounds down
    if shape.kv_heads != shape.heads:
        params["n_kv_heads"] = shape.kv_heads
    rope = _rope(config, path)
    holder = rope if "rope_theta" in rope else config
    theta = float(reading.number(holder, "rope_theta", where=path, default=THETA))
    return params if theta == THETA else params | {"rope_theta": theta}


def _files(source: Path) -> dict[str, Any]:
    """The open safetensors file of every tensor."""
    if (source / INDEX).is_file():
        names = reading.json_file(source / INDEX, what=WHAT).get("weight_map")
        if not isinstance(names, dict):
            raise CheckpointError(f"{source / INDEX}: holds no weight_map; {reading.CUT}")
        if odd := [file for file in names.values() if not isinstance(file, str) or not is_bare(file)]:
            raise CheckpointError(f"{source / INDEX}: {odd[0]!r} is no file of this folder; {reading.CUT}")
    else:
        names = dict.fromkeys(_open(source / SINGLE).keys(), SINGLE)
    opened = {file: _open(source / file) for file in set(names.values())}
    held = {file: set(opened[file].keys()) for file in opened}
    for name, file in names.items():
        if name not in held[file]:
            raise CheckpointError(f"{source / file}: lacks {name!r}; {reading.CUT}")
    return {name: opened[file] for name, file in names.items()}


def _open(path: Path) -> Any:
    reading.check_file(path, what=WHAT)
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: no readable safetensors file ({error}); {reading.CUT}") from error


def _check(wanted: list[LlamaTensor], files: dict[str, Any], shards: int, *, tied: bool, source: Path) -> None:
    """Hold names and shapes against the config; tied embeddings also stand for the output layer."""
    if tied and "model.embed_tokens.weight" in files:
        files.setdefault("lm_head.weight", files["model.embed_tokens.weight"])
    names = {tensor.hugging_face for tensor in wanted}
    for odd, said in ((names - set(files), "lacks"), (set(files) - names, "has unknown")):
        if odd:
            raise CheckpointError(f"{source}: {said} {min(odd)!r} (and {len(odd) - 1} more); give {WHAT}")
    for tensor in wanted:
        found = tuple(files[tensor.hugging_face].get_slice(_stored(tensor, files)).get_shape())
        if found != tensor.shape:
            raise CheckpointError(
                f"{source}: {tensor.hugging_face!r} has shape {found}, expected {tensor.shape} by its config.json"
            )
        if tensor.cut is not WHOLE and tensor.shape[tensor.cut] != part_shape(tensor, shards)[tensor.cut] * shards:
            raise CheckpointError(
                f"{source}: {tensor.hugging_face!r} cannot be cut into {shards} shards; delete {META}"
            )


def _stored(tensor: LlamaTensor, files: Mapping[str, Any]) -> str:
    """The name under which a file has the tensor: tied output weights are the embeddings."""
    held = files[tensor.hugging_face].keys()
    return tensor.hugging_face if tensor.hugging_face in held else "model.embed_tokens.weight"


def _part(tensor: LlamaTensor, files: Mapping[str, Any], number: int, shards: int) -> Tensor:
    """What shard `number` of Meta's holds of a tensor."""
    whole: Tensor = files[tensor.hugging_face].get_tensor(_stored(tensor, files))
    if tensor.rotary_heads is not None:
        whole = to_pairs(whole, tensor.rotary_heads)
    return whole if tensor.cut is WHOLE else whole.chunk(shards, dim=tensor.cut)[number].clone()
