"""The conversions on small synthetic files: what comes out computes exactly what went in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

gguf = pytest.importorskip("gguf")
onnx = pytest.importorskip("onnx")

from tokenizers import pre_tokenizers  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
)

from harness.backbones import smol_convert  # noqa: E402

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ċ Ċ", "Ġ A", "Ġ Ġ", "Ġ 1"]
TOKENS = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]
DINO = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 12, "patch_size": 4}
BLOCK = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def permute(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """llama.cpp's own function, from convert_hf_to_gguf.py."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def small_llama() -> LlamaForCausalLM:
    """Two layers, grouped heads, weights that float16 holds exactly."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():  # not model.half(), which would round the rotary frequencies too
        parameter.data = parameter.data.half().float()
    return model


def write_gguf(model: LlamaForCausalLM, path: Path, *, arch: str = "llama", drop: str = "") -> None:
    """Write a model as llama.cpp does; `drop` leaves one tensor out."""
    config, writer = model.config, gguf.GGUFWriter(path, arch)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in TOKENS])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:
            array = permute(array, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads)
        if name.startswith("model.layers."):
            layer, part = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
            top[name] = f"blk.{layer}.{BLOCK[part]}.weight"
        if name in top and top[name] != drop:
            writer.add_tensor(top[name], array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def export(model: Dinov2Model, *, drop: str = "") -> Any:
    """An ONNX model with the constants and node names of torch's exporter; `drop` leaves one weight out."""
    state = {}
    for name, tensor in model.state_dict().items():
        for new, old in {"q_proj": "query", "k_proj": "key", "v_proj": "value"}.items():
            name = name.replace(f"attention.{new}", f"attention.attention.{old}")
        state[name.replace("attention.o_proj", "attention.output.dense")] = tensor.numpy()
    positions = state.pop("embeddings.position_embeddings")
    constants = {"onnx::Concat_1": positions[:, :1], "onnx::Reshape_2": positions[:, 1:]}
    constants |= {"decoder.weight": np.ones((2, 2), np.float32), "onnx::MatMul_0": np.ones((2, 2), np.float32)}
    nodes = [
        onnx.helper.make_node("Reshape", ["onnx::Reshape_2", "shape"], ["r"], name="/backbone/embeddings/Reshape_1"),
        onnx.helper.make_node("Concat", ["onnx::Concat_1", "r"], ["c"], name="/backbone/embeddings/Concat_6"),
        onnx.helper.make_node("MatMul", ["x", "onnx::MatMul_0"], ["d"], name="/decoder/fc/MatMul"),
    ]
    for index, (name, array) in enumerate(state.items()):
        if name == drop:
            continue
        if array.ndim != 2:
            constants[f"backbone.{name}"] = array
            continue
        constants[f"onnx::MatMul_1{index}"] = array.T
        node = f"/backbone/{name.removesuffix('.weight').replace('.', '/').replace('layer/', 'layer.')}/MatMul"
        nodes.append(onnx.helper.make_node("MatMul", ["x", f"onnx::MatMul_1{index}"], [f"y{index}"], name=node))
    arrays = [onnx.numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()]
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "export", [], [], initializer=arrays))


def small_dino() -> Dinov2Model:
    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(**DINO, use_mask_token=False)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_llm_computes_what_the_gguf_held(tmp_path: Path) -> None:
    model, out = small_llama(), tmp_path / "out"
    write_gguf(model, tmp_path / "small.gguf")
    out.mkdir()
    smol_convert.convert_llm(tmp_path / "small.gguf", out)
    again = AutoModelForCausalLM.from_pretrained(out).eval()
    assert again.dtype == torch.float32
    assert again.config.rms_norm_eps == 1e-5
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        assert torch.equal(again(ids).logits, model(ids).logits)


def test_tokenizer_splits_digits_first_and_keeps_special_tokens(tmp_path: Path) -> None:
    write_gguf(small_llama(), tmp_path / "small.gguf")
    (tmp_path / "out").mkdir()
    smol_convert.convert_llm(tmp_path / "small.gguf", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "<|im_start|> A\n\n12  1<|im_end|>"
    tokens = ["<|im_start|>", "ĠA", "ĊĊ", "1", "2", "ĠĠ", "1", "<|im_end|>"]
    assert tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids) == tokens
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    assert special == (1, 2, 2, 0)
    assert tokenizer.model_max_length == 64


def test_llm_with_a_missing_weight_is_refused(tmp_path: Path) -> None:
    write_gguf(small_llama(), tmp_path / "small.gguf", drop="blk.1.ffn_up.weight")
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        smol_convert.convert_llm(tmp_path / "small.gguf", tmp_path / "out")


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    write_gguf(small_llama(), tmp_path / "small.gguf", arch="gpt2")
    with pytest.raises(ValueError, match="must be a llama GGUF"):
        smol_convert.convert_llm(tmp_path / "small.gguf", tmp_path)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("blk.12.attn_q.weight", "model.layers.12.self_attn.q_proj.weight"),
        ("blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("output.weight", "lm_head.weight"),
    ],
)
def test_gguf_key(name: str, key: str) -> None:
    assert smol_convert.gguf_key(name) == key


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "blk.x.attn_q.weight", "blk.0.nothing.weight", "rope_freqs"])
def test_gguf_key_refuses_other_names(name: str) -> None:
    with pytest.raises(ValueError, match=f"got {name}"):
        smol_convert.gguf_key(name)


@pytest.mark.parametrize("heads", [1, 3])
def test_unpermute_inverts_llama_cpp(heads: int) -> None:
    weight = np.arange(heads * 8 * 5, dtype=np.float32).reshape(heads * 8, 5)
    assert np.array_equal(smol_convert.unpermute_rope(permute(weight, heads), heads), weight)


def test_vision_computes_what_the_graph_held(tmp_path: Path) -> None:
    model, out = small_dino(), tmp_path / "out"
    onnx.save(export(model), tmp_path / "small.onnx")
    out.mkdir()
    smol_convert.convert_vision(tmp_path / "small.onnx", out, config={**DINO, "use_mask_token": False})
    again = Dinov2Model.from_pretrained(out).eval()
    assert again.state_dict().keys() == model.state_dict().keys()
    with torch.inference_mode():
        for size in (12, 8):  # as stored, and with interpolated positions
            pixels = torch.randn(2, 3, size, size)
            assert torch.equal(again(pixels).last_hidden_state, model(pixels).last_hidden_state)


@pytest.mark.parametrize(
    ("config", "drop", "named"),
    [
        ({}, "encoder.layer.1.mlp.fc1.weight", "fc1"),
        ({}, "layernorm.bias", "layernorm"),
        ({"num_hidden_layers": 1}, "", r"encoder\.layer\.1"),
        ({"mlp_ratio": 2}, "", "fc1"),
        ({"use_mask_token": True}, "", "mask_token"),
    ],
)
def test_vision_that_does_not_fit_is_refused(tmp_path: Path, config: dict[str, Any], drop: str, named: str) -> None:
    onnx.save(export(small_dino(), drop=drop), tmp_path / "small.onnx")
    config = {**DINO, "use_mask_token": False, **config}
    with pytest.raises(ValueError, match=named):
        smol_convert.convert_vision(tmp_path / "small.onnx", tmp_path, config=config)


def test_dinov2_state_wants_two_position_embeddings() -> None:
    model = export(small_dino())
    del model.graph.node[1]
    with pytest.raises(ValueError, match="two position embeddings"):
        smol_convert.dinov2_state(model)


def test_dinov2_state_wants_one_weight_for_each_module() -> None:
    model = export(small_dino())
    model.graph.node.append(model.graph.node[-1])
    with pytest.raises(ValueError, match="got two for"):
        smol_convert.dinov2_state(model)
