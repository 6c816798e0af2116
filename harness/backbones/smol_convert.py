"""GGUF and ONNX to Hugging Face directories, for the two files that `smol_weights` fetches.

Weights are stored under the names of the published checkpoints, which every transformers release loads, and each
directory is loaded back once and checked key by key before it counts as made.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from harness.backbones.folders import check_claims

if TYPE_CHECKING:
    from onnx import ModelProto

# Hyperparameters that the ONNX file does not name. Source: facebookresearch/dinov2, ViT-S/14 trained up to 518 px.
DINOV2_SMALL: dict[str, Any] = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "image_size": 518,
    "patch_size": 14,
    "layer_norm_eps": 1e-6,
    "use_mask_token": False,  # the file has none; it serves DINOv2's own pre-training only
}
# Source: the preprocessor of facebook/dinov2-small; mean and std of ImageNet. resample 3 is bicubic.
PREPROCESSOR: dict[str, Any] = {
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
_GGUF_CONTROL_TOKEN = 3
_GGUF_BLOCK = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GGUF_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def convert_llm(gguf_file: Path, out: Path) -> None:
    """Write a LlamaForCausalLM directory with its tokenizer from a GGUF file of architecture `llama`.

    Weights are stored in float16, half the size of float32: rounding is 2**-11 relative, far below the step of the
    4-bit source. config.json says float32, so a plain `from_pretrained` computes in float32.

    Raises:
        ValueError: another architecture or tokenizer family, a damaged file, or the directory does not load key by key.
    """
    with _legible(gguf_file):
        fields, state = _read_gguf(gguf_file)
        llama_config(fields, tied="lm_head.weight" not in state).save_pretrained(out)
        save_file(state, out / "model.safetensors", metadata={"format": "pt"})
        smollm_tokenizer(fields).save_pretrained(out)
        check_loads(LlamaForCausalLM, out)


def _read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The metadata of a file, and its tensors under Hugging Face's names."""
    import gguf

    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    architecture = (fields.get("general.architecture"), fields.get("tokenizer.ggml.pre"))
    if architecture != ("llama", "smollm"):
        raise ValueError(f"{path.name} must be a llama GGUF with the smollm tokenizer, got {architecture}")
    state = {}
    for tensor in reader.tensors:
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if tensor.name.endswith("attn_q.weight"):
            array = unpermute_rope(array, fields["llama.attention.head_count"])
        elif tensor.name.endswith("attn_k.weight"):
            array = unpermute_rope(array, fields["llama.attention.head_count_kv"])
        state[gguf_key(tensor.name)] = torch.tensor(array).to(torch.float16)
    return fields, state


def convert_vision(onnx_file: Path, out: Path, *, config: Mapping[str, Any] = DINOV2_SMALL) -> None:
    """Write a Dinov2Model directory, in float32 as in the file, from an ONNX export that holds one as `backbone`.

    Raises:
        ValueError: a damaged file, or the graph does not hold the weights that `config` asks for, key by key.
    """
    import onnx

    with _legible(onnx_file):
        # Weights in files of their own, which the graph may name, would be looked for anywhere.
        state = dinov2_state(onnx.load(onnx_file, load_external_data=False))
        Dinov2Config(**config, architectures=["Dinov2Model"], dtype="float32").save_pretrained(out)
        save_file(state, out / "model.safetensors", metadata={"format": "pt"})
        (out / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n", encoding="utf-8")
        check_loads(Dinov2Model, out)


@contextlib.contextmanager
def _legible(path: Path) -> Iterator[None]:
    """Turn what gguf, onnx and transformers raise on a damaged file into an error that names it."""
    try:
        yield
    except OSError:  # of the disk
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path.name} cannot be converted ({reason}); fetch it again") from error


def gguf_key(name: str) -> str:
    """Hugging Face name of a llama tensor in GGUF, such as `blk.3.attn_q.weight`.

    Raises:
        ValueError: a name that no llama model has.
    """
    match name.split("."):
        case ["blk", layer, part, "weight"] if part in _GGUF_BLOCK and layer.isdecimal():
            return f"model.layers.{layer}.{_GGUF_BLOCK[part]}.weight"
        case [part, "weight"] if part in _GGUF_TOP:
            return f"{_GGUF_TOP[part]}.weight"
    raise ValueError(f"a llama GGUF has no tensor of this name, got {name}")


def unpermute_rope(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Bring the rows of a query or key projection [heads * head_dim, in] back to Hugging Face order.

    llama.cpp interleaves the two rotary halves of each head; Hugging Face keeps them one after the other.
    Source: llama.cpp, convert_hf_to_gguf.py, LlamaModel.permute, which this inverts.
    """
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def llama_config(fields: Mapping[str, Any], *, tied: bool) -> LlamaConfig:
    """The model config that GGUF metadata describes; `tied` when the output projection is the embedding."""
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=fields["llama.attention.head_count"],
        num_key_value_heads=fields["llama.attention.head_count_kv"],
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}"),  # stored as a float32
        rope_parameters={"rope_type": "default", "rope_theta": float(fields["llama.rope.freq_base"])},
        tie_word_embeddings=tied,
        bos_token_id=fields["tokenizer.ggml.bos_token_id"],
        eos_token_id=fields["tokenizer.ggml.eos_token_id"],
        pad_token_id=fields["tokenizer.ggml.padding_token_id"],
        dtype="float32",
    )


def smollm_tokenizer(fields: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """The tokenizer in GGUF metadata; digits are split one by one before byte-level BPE, nothing is added at the ends.

    Source: llama.cpp, pre-tokenizer `smollm`. transformers' own GGUF reader leaves the digit split out, which changes
    the tokens of white space before a number.
    """
    tokens, merges = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.merges"]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(merge.split(" ")) for merge in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, fields["tokenizer.ggml.token_type"], strict=True)
    control = [token for token, kind in kinds if kind == _GGUF_CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    roles = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    special = {f"{role}_token": tokens[fields[f"tokenizer.ggml.{name}_token_id"]] for role, name in roles.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=fields["llama.context_length"],
        clean_up_tokenization_spaces=False,
        chat_template=fields.get("tokenizer.chat_template"),
        **special,
    )


def dinov2_state(model: ModelProto) -> dict[str, torch.Tensor]:
    """The DINOv2 weights in an exported graph, under the names of the published checkpoint.

    Biases, norms and convolutions keep their names under `backbone.`; a linear weight is the transposed, nameless
    constant of the MatMul node named after its module; the class and patch position embeddings are two constants.

    Raises:
        ValueError: two constants for one name, or not exactly one class and one patch position embedding.
    """
    from onnx import numpy_helper

    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    named = {name: array for name, array in constants.items() if name.startswith("backbone.")}
    state = {name.removeprefix("backbone."): array for name, array in named.items()}
    positions = []
    for node in model.graph.node:
        for name in (name for name in node.input if name in constants and name not in named):
            if node.op_type == "MatMul" and node.name.startswith("/backbone/"):
                module = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
                if f"{module}.weight" in state:
                    raise ValueError(f"one weight for each module is expected, got two for {module}")
                state[f"{module}.weight"] = constants[name].T
            elif node.name.startswith("/backbone/embeddings/") and constants[name].ndim == 3:
                positions.append(constants[name])
    positions.sort(key=lambda array: int(array.shape[1]))
    if len(positions) != 2 or positions[0].shape[1] != 1:
        raise ValueError(f"two position embeddings [1,1,D], [1,P,D] are expected, got {[p.shape for p in positions]}")
    state["embeddings.position_embeddings"] = np.concatenate(positions, axis=1)
    return {name: torch.tensor(np.ascontiguousarray(array)) for name, array in state.items()}


def check_loads(model: type[PreTrainedModel], folder: Path) -> None:
    """Load a directory in float32 and check it: no key missing, none unexpected, every shape equal.

    Raises:
        ValueError: anything does not fit; the message names the keys.
    """
    check_claims(str(folder), AutoConfig.from_pretrained(folder), model._from_config)
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True, "local_files_only": True}
    loaded: Any = model.from_pretrained(folder, ignore_mismatched_sizes=True, **options)  # reported, not raised
    wrong = {kind: sorted(map(str, keys)) for kind, keys in loaded[1].items() if keys}
    if wrong:
        raise ValueError(f"{folder} must load as {model.__name__} key by key, got {wrong}")
