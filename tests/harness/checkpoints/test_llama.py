"""Meta's LLaMA folders: the Hugging Face model computes what Meta's computes, and the way back gives the same bits."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from harness import backbones
from harness.checkpoints import CheckpointError, llama, llama_export
from tests.golden import GOLDEN, NEEDS_GOLDEN
from tests.harness.checkpoints.conftest import Imported, Refused, same
from tests.harness.checkpoints.meta_llama import FFN, PARAMS, cut, logits, random_model, read, write

IDS = torch.tensor([[1, 7, 3, 39, 20, 11, 5, 5, 2], [4, 4, 8, 0, 31, 30, 29, 9, 6]])
MODELS: dict[str, dict[str, Any]] = {
    "llama 1": {},
    "grouped queries": {"n_kv_heads": 2},
    "another base": {"rope_theta": 500000.0},
}


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("kind", MODELS)
def test_hugging_face_computes_what_meta_computes(kind: str, shards: int, tmp_path: Path, converted: Imported) -> None:
    params = PARAMS | MODELS[kind]
    state = random_model(params)
    source = write(tmp_path / "7B", cut(state, shards), params)
    model = LlamaForCausalLM.from_pretrained(converted("import", "llama", source)).eval()
    torch.testing.assert_close(model(IDS).logits, logits(state, IDS, params), rtol=1e-4, atol=1e-4)


def test_the_comparison_knows_rotary_layouts(tmp_path: Path) -> None:
    """Without the rows changing places the logits differ far more than the tolerance above."""
    state = random_model()
    llama.import_(write(tmp_path / "7B", [state]), tmp_path / "hf")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "hf").eval()
    weight = model.model.layers[0].self_attn.q_proj.weight
    assert not torch.equal(weight, state["layers.0.attention.wq.weight"])
    weight.data.copy_(state["layers.0.attention.wq.weight"])
    assert (model(IDS).logits - logits(state, IDS)).abs().max() > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("shards", "embedding_dim"), [(1, 1), (2, 1), (4, 1), (2, 0)])
def test_there_and_back(
    dtype: torch.dtype, shards: int, embedding_dim: int, tmp_path: Path, converted: Imported
) -> None:
    state = {name: tensor.to(dtype) for name, tensor in random_model().items()}
    parts = cut(state, shards, embedding_dim=embedding_dim)
    for part in parts:
        part["rope.freqs"] = (10000.0 ** -(torch.arange(0, 8, 2) / 8)).to(dtype)
    source = write(tmp_path / "7B", parts)
    hf = converted("import", "llama", source, name="hf")
    assert json.loads((hf / "config.json").read_text(encoding="utf-8"))["dtype"] == str(dtype).removeprefix("torch.")
    assert same(load_file(hf / "model.safetensors"), LlamaForCausalLM.from_pretrained(hf, dtype=dtype).state_dict())
    back = converted("export", "llama", hf, name="back")
    found = read(back)
    assert len(found) == shards
    for theirs, ours in zip(parts, found, strict=True):
        assert same(ours, theirs)
    assert json.loads((back / "params.json").read_text(encoding="utf-8")) == PARAMS


def test_large_models_become_several_files(
    tmp_path: Path, converted: Imported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama, "SHARD_BYTES", 20_000)
    state = random_model()
    hf = converted("import", "llama", write(tmp_path / "7B", cut(state, 2)), name="hf")
    files = sorted(hf.glob("model-*.safetensors"))
    assert len(files) > 2
    assert max(file.stat().st_size for file in files) < 25_000
    model = LlamaForCausalLM.from_pretrained(hf).eval()
    torch.testing.assert_close(model(IDS).logits, logits(state, IDS), rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(read(converted("export", "llama", hf, name="back")), cut(state, 2), strict=True):
        assert same(ours, theirs)


@pytest.mark.realdata
@NEEDS_GOLDEN
def test_the_golden_model_as_metas_computes_the_same(tmp_path: Path) -> None:
    source = GOLDEN / "adem_model" / "hf_llama"
    llama_export.export(source, tmp_path / "meta")
    params = json.loads((tmp_path / "meta" / "params.json").read_text(encoding="utf-8"))
    ids = load_file(GOLDEN / "adem_model" / "inputs.safetensors")["input_ids"]
    expected = LlamaForCausalLM.from_pretrained(source).eval()(ids).logits
    torch.testing.assert_close(logits(read(tmp_path / "meta")[0], ids, params), expected, rtol=1e-4, atol=2e-5)
    llama.import_(tmp_path / "meta", tmp_path / "hf")
    assert same(load_file(tmp_path / "hf" / "model.safetensors"), load_file(source / "model.safetensors"))


@pytest.mark.parametrize(("ffn", "more"), [(256, {}), (96, {}), (300, {"n_kv_heads": 2}), (40, {"rope_theta": 1e6})])
def test_a_params_file_made_from_a_config_gives_metas_widths(ffn: int, more: dict[str, Any], tmp_path: Path) -> None:
    given = PARAMS | more
    llama.import_(write(tmp_path / "7B", [random_model(given, ffn=ffn)], given), tmp_path / "hf")
    (tmp_path / "hf" / "meta_llama.json").unlink()
    llama_export.export(tmp_path / "hf", tmp_path / "meta")
    params = json.loads((tmp_path / "meta" / "params.json").read_text(encoding="utf-8"))
    hidden = int(2 * (4 * params["dim"]) / 3)  # Meta's llama/model.py
    hidden = int(params.get("ffn_dim_multiplier", 1) * hidden)
    multiple = params["multiple_of"]
    assert multiple * ((hidden + multiple - 1) // multiple) == ffn
    assert {name: params.get(name) for name in more} == more
    assert (params["dim"], params["n_heads"], params["n_layers"], params["norm_eps"]) == (32, 4, 2, 1e-5)


@pytest.mark.parametrize("where", ["beside", "above"])
def test_the_tokenizer_is_copied_and_the_folder_is_a_backbone(
    where: str, tmp_path: Path, converted: Imported, tiny_folders: tuple[Path, Path]
) -> None:
    sentencepiece = pytest.importorskip("sentencepiece", reason="needs sentencepiece")
    tokenizer = io.BytesIO()
    texts = iter(["a picture of a red ball", "which colour is the ball", "the ball is red"] * 5)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=texts,
        model_writer=tokenizer,
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    source = write(tmp_path / "7B", [random_model(vocab=300)])
    (source if where == "beside" else tmp_path).joinpath("tokenizer.model").write_bytes(tokenizer.getvalue())
    hf = converted("import", "llama", source, name="hf")
    assert (hf / "tokenizer.model").read_bytes() == tokenizer.getvalue()
    model = backbones.load(backbones.BackboneSpec("x", str(hf), str(tiny_folders[1])))
    theirs = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.getvalue())
    for text in ("red ball", "which colour", "a  b\nc ", "é 12, (x)"):
        batch = model.encode([text], answers=None, images=[None])
        assert batch.input_ids[0].tolist() == theirs.encode(text, add_bos=True)
    back = converted("export", "llama", hf, name="back")
    assert (back / "tokenizer.model").read_bytes() == tokenizer.getvalue()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "13B", cut(random_model(), 2))


def change(source: Path, number: int, **changed: Tensor | None) -> None:
    """Put tensors into a shard, or take them out; `__` stands for a dot."""
    path = source / f"consolidated.{number:02}.pth"
    state = torch.load(path, weights_only=True)
    state |= {name.replace("__", "."): tensor for name, tensor in changed.items()}
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, path)


def refused_import(refused: Refused, source: Path) -> str:
    line = refused("import", "--format", "llama", source, "--out", source.parent / "out")
    assert line.startswith(str(source))
    assert [path.name for path in source.parent.iterdir()] == [source.name]
    return line


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"norm__weight": None}, "01.pth: lacks 'norm.weight' (and 0 more); give a whole LLaMA"),
        ({"adapter_query__weight": torch.zeros(1)}, "01.pth: has unknown 'adapter_query.weight' (and 0 more)"),
        (
            {"layers__1__attention__wk__weight": torch.zeros(15, 32)},
            "01.pth: 'layers.1.attention.wk.weight' has shape (15, 32), expected (16, 32) of 2 shards",
        ),
        ({"norm__weight": torch.zeros(32)}, "01.pth: 'norm.weight' is not that of consolidated.00.pth"),
    ],
)
def test_shards_that_do_not_fit(
    changed: dict[str, Tensor | None], message: str, source: Path, refused: Refused
) -> None:
    change(source, 1, **changed)
    assert message in refused_import(refused, source)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dim": None}, "dim must be a whole number of at least 1, got None"),
        ({"n_layers": 0}, "n_layers must be a whole number of at least 1, got 0"),
        ({"n_heads": 5}, "dim 32 is no multiple of n_heads 5"),
        ({"norm_eps": None}, "norm_eps must be a number above 0 such as 1e-06, got None"),
        ({"use_scaled_rope": True}, "use_scaled_rope (LLaMA 3.1) is not read"),
        ({"dim": 64}, "00.pth: 'tok_embeddings.weight' has shape (40, 16), expected (40, 32) of 2 shards"),
        ({"n_layers": 3}, "00.pth: lacks 'layers.2.attention.wk.weight'"),
        ({"n_layers": 1}, "00.pth: has unknown 'layers.1.attention.wk.weight'"),
        ({"n_kv_heads": 2}, "'layers.0.attention.wk.weight' has shape (16, 32), expected (8, 32)"),
    ],
)
def test_params_that_do_not_fit(changed: dict[str, Any], message: str, source: Path, refused: Refused) -> None:
    (source / "params.json").write_text(json.dumps(PARAMS | changed), encoding="utf-8")
    assert message in refused_import(refused, source)


def test_files_that_are_missing_or_damaged(source: Path, refused: Refused) -> None:
    second, params = source / "consolidated.01.pth", source / "params.json"
    whole = second.read_bytes()
    second.write_bytes(whole[: len(whole) // 2])
    assert "consolidated.01.pth: no readable torch file" in refused_import(refused, source)
    second.unlink()
    assert "has shape (40, 16), expected (20, 32) of 1 shards" in refused_import(refused, source)
    second.write_bytes(whole)
    (source / "consolidated.00.pth").unlink()
    assert "consolidated.00.pth: no such file" in refused_import(refused, source)
    second.unlink()
    assert "consolidated.00.pth: no such file" in refused_import(refused, source)
    params.write_text("{", encoding="utf-8")
    assert "params.json: no readable JSON" in refused_import(refused, source)
    params.write_text("[]", encoding="utf-8")
    assert "params.json: holds no JSON object" in refused_import(refused, source)
    params.unlink()
    assert "params.json: no such file" in refused_import(refused, source)


def test_a_file_or_nothing_instead_of_a_folder(source: Path, refused: Refused) -> None:
    argv = ("--format", "llama", "--out", source.parent / "out")
    file = source / "consolidated.00.pth"
    assert f"{file}: is a file; give a folder of consolidated.00.pth" in refused("import", *argv, file)
    assert f"{file}: is a file; give a Hugging Face Llama folder" in refused("export", *argv, file)
    assert f"{source / 'no'}: no such folder" in refused("import", *argv, source / "no")
    assert f"{source / 'config.json'}: no such file" in refused("export", *argv, source)


EXPORTS = [
    ({"model_type": "qwen2"}, "model_type is 'qwen2', not 'llama'"),
    ({"rope_parameters": {"rope_type": "llama3"}}, "rope_type is 'llama3', which Meta's layout cannot say"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu', which Meta's layout cannot say"),
    ({"attention_bias": True}, "attention_bias is set, which Meta's layout has no tensors for"),
    ({"head_dim": 16}, "head_dim 16 x 4 heads is not hidden_size 32"),
    ({"hidden_size": None}, "hidden_size must be a whole number of at least 1, got None"),
    ({"vocab_size": 41}, "'model.embed_tokens.weight' has shape (40, 32), expected (41, 32) by its config.json"),
    ({"num_hidden_layers": 3}, "lacks 'model.layers.2.input_layernorm.weight' (and 8 more)"),
    ({"num_hidden_layers": 1}, "has unknown 'model.layers.1.input_layernorm.weight' (and 8 more)"),
]


@pytest.mark.parametrize(("changed", "message"), EXPORTS, ids=[str(changed) for changed, _ in EXPORTS])
def test_folders_that_cannot_be_exported(
    changed: dict[str, Any], message: str, source: Path, tmp_path: Path, refused: Refused
) -> None:
    llama.import_(source, tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changed), encoding="utf-8")
    line = refused("export", "--format", "llama", tmp_path / "hf", "--out", tmp_path / "out")
    assert line.startswith(str(tmp_path / "hf"))
    assert message in line
    assert not (tmp_path / "out").exists()


def test_damaged_folders_cannot_be_exported(source: Path, tmp_path: Path) -> None:
    llama.import_(source, tmp_path / "hf")
    weights, sidecar = tmp_path / "hf" / "model.safetensors", tmp_path / "hf" / "meta_llama.json"
    found = json.loads(sidecar.read_text(encoding="utf-8"))
    for wrong, message in (({"shards": 0}, "not as vltune wrote it"), ({"shards": 3}, "cannot be cut into 3 shards")):
        sidecar.write_text(json.dumps(found | wrong), encoding="utf-8")
        with pytest.raises(CheckpointError, match=message):
            llama_export.export(tmp_path / "hf", tmp_path / "out")
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no readable safetensors file"):
        llama_export.export(tmp_path / "hf", tmp_path / "out")
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such file"):
        llama_export.export(tmp_path / "hf", tmp_path / "out")
    (tmp_path / "hf" / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"index\.json: holds no weight_map"):
        llama_export.export(tmp_path / "hf", tmp_path / "out")


def test_tied_output_weights_are_written_out(tmp_path: Path, tiny_folders: tuple[Path, Path]) -> None:
    tied = LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_folders[0], tie_word_embeddings=True))
    tied.save_pretrained(tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    llama_export.export(tmp_path / "tied", tmp_path / "meta")
    [state] = read(tmp_path / "meta")
    assert torch.equal(state["output.weight"], state["tok_embeddings.weight"])
    params = json.loads((tmp_path / "meta" / "params.json").read_text(encoding="utf-8"))
    torch.testing.assert_close(logits(state, IDS, params), tied.eval()(IDS).logits, rtol=1e-4, atol=1e-4)


def test_the_ffn_is_as_wide_as_the_tensors_say(source: Path, tmp_path: Path) -> None:
    llama.import_(source, tmp_path / "hf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text(encoding="utf-8"))["intermediate_size"] == FFN
