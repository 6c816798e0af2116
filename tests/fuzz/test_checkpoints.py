"""Checkpoints: ours, those of the methods' authors, peft's folders, Meta's LLaMA and Hugging Face's."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

import methods
from harness import backbones
from harness.checkpoints import CheckpointError, authors, beit3, convert, llama, llama_export, llava, own, peft_folder
from harness.settings import UsageError
from methods.lora import LoRA
from tests.fuzz.mutations import bad_json
from tests.fuzz.refusals import cases, fuzz
from tests.fuzz.tensors import bad_safetensors, bad_torch_file
from tests.harness.checkpoints import meta_llama

CHECKPOINT = (CheckpointError,)
METHOD = methods.get("memvp", slots=20)
LAYER = "beit3.encoder.layers.0"
STATES: dict[str, dict[str, Tensor]] = {
    "authors": {
        "adapter_emb1": torch.zeros(1, 4, 3),
        "adapter_proj.fc1.weight": torch.zeros(3, 2),
        "w": torch.zeros(1),
    },
    "llava": {f"model.mm_projector.{n}": torch.zeros(2, 2) for n in ("0.weight", "0.bias", "2.weight", "2.bias")},
    "beit3": {f"{LAYER}.adaptmlp_text.fc1.weight": torch.zeros(2, 2), **{name: torch.zeros(2) for name in beit3.HEADS}},
}
READERS = {"authors": authors, "llava": llava, "beit3": beit3}


@pytest.mark.parametrize("kind", STATES)
def test_torch_files(kind: str, folder: Path) -> None:
    """Read, held against the method's own tensors, and kept in our format."""
    path, state = folder / "a checkpoint.pth", STATES[kind]

    def read(content: bytes) -> Mapping[str, Tensor]:
        path.write_bytes(content)
        return READERS[kind].read(path).state

    torch.save({"model": state}, path)
    expected = read(path.read_bytes())

    def fitted(content: bytes) -> None:
        found = read(content)
        own.fit(found, {name: tensor for name, tensor in expected.items() if "head." not in name}, where=str(path))
        shutil.rmtree(folder / "ours", ignore_errors=True)
        own.save(folder / "ours", method_name="x", method=METHOD, state=found, backbone="x", note="")

    good, rest = path.read_bytes(), {"folder": folder, "errors": CHECKPOINT, "names": str(path)}
    assert fuzz(fitted, bad_torch_file(state), good=good, count=cases(120), **rest).mostly_refused


@pytest.fixture
def ours(folder: Path) -> Path:
    made = folder / "ours"
    state = {"a": torch.zeros(3, 2), "b": torch.zeros(4)}
    own.save(made, method_name="memvp", method=METHOD, state=state, backbone="tiny", note="by hand")
    return made


def test_our_tensors(ours: Path, folder: Path) -> None:
    good = (ours / own.TENSORS).read_bytes()

    def read(content: bytes) -> None:
        (ours / own.TENSORS).write_bytes(content)
        own.load(ours)

    found = fuzz(read, bad_safetensors(good), good=good, folder=folder, errors=CHECKPOINT, count=cases(100))
    assert not found.read, "another file has its hash"


def test_our_tensors_with_a_hash_that_fits(ours: Path, folder: Path) -> None:
    good = (ours / own.TENSORS).read_bytes()
    said = json.loads((ours / own.DESCRIPTION).read_text(encoding="utf-8"))
    expected = own.load(ours).state

    def read(content: bytes) -> None:
        (ours / own.TENSORS).write_bytes(content)
        text = json.dumps({**said, "sha256": own.reading.sha256(ours / own.TENSORS)})
        (ours / own.DESCRIPTION).write_text(text, encoding="utf-8")
        own.fit(own.load(ours).state, expected, where=str(ours))

    found = fuzz(read, bad_safetensors(good), good=good, folder=folder, errors=CHECKPOINT, count=cases(100))
    assert found.mostly_refused


@pytest.mark.parametrize("method", ["memvp", "lora", "blind"])
def test_our_description(method: str, ours: Path, folder: Path) -> None:
    path = ours / own.DESCRIPTION
    said = json.loads(path.read_text(encoding="utf-8"))
    fields = {"memvp": {"slots": 20, "scale": 0.1}, "lora": {"rank": 4, "target_modules": ["q_proj"], "dora": False}}
    nested = [["slots", 20], ["scale", 0.1]]
    said |= {"method": method, "fields": {**fields, "blind": {"of": "memvp", "fields": nested}}[method]}

    def read(content: bytes) -> None:
        path.write_bytes(content)
        own.load(ours)

    good = json.dumps(said).encode()
    assert fuzz(read, bad_json(said), good=good, folder=folder, errors=CHECKPOINT, count=cases(80)).mostly_refused


@pytest.fixture
def peft(folder: Path) -> Path:
    """As peft writes it, for the first layer of the tiny backbone."""
    made = folder / "peft"
    made.mkdir()
    config = LoRA(rank=2).peft_config(["model.layers.0.self_attn.q_proj"], decoder=True)
    config.save_pretrained(str(made))
    names = [f"model.layers.0.self_attn.{name}_proj.lora_{part}.weight" for name in "qv" for part in "AB"]
    save_file({f"base_model.model.{name}": torch.zeros(2, 2) for name in names}, made / peft_folder.TENSORS)
    save_file({"adapter_projector.fc1.weight": torch.zeros(2, 2)}, made / peft_folder.PROJECTOR)
    return made


def test_peft_configurations(peft: Path, folder: Path, tiny_folders: tuple[Path, Path]) -> None:
    """Read and put on a backbone of which only the shapes are there."""
    path = peft / peft_folder.CONFIG
    good = json.loads(path.read_text(encoding="utf-8"))
    fields = {name: value for name, value in good.items() if name in peft_folder.FIELDS or value}
    model = backbones.load(backbones.BackboneSpec("tiny", *map(str, tiny_folders), weights="random"), device="meta")

    def read(content: bytes) -> None:
        path.write_bytes(content)
        found = peft_folder.read(peft)
        method = convert._with_fields(LoRA(), found, "lora", (), peft)
        if method.unmet(model) is None:
            convert._expected(method, model, peft)

    written, errors = json.dumps(fields).encode(), (*CHECKPOINT, UsageError)
    assert fuzz(read, bad_json(fields), good=written, folder=folder, errors=errors, count=cases(120)).mostly_refused


@pytest.mark.parametrize("file", [peft_folder.TENSORS, peft_folder.PROJECTOR])
def test_peft_tensors(file: str, peft: Path, folder: Path) -> None:
    good, expected = (peft / file).read_bytes(), peft_folder.read(peft).state

    def read(content: bytes) -> None:
        (peft / file).write_bytes(content)
        own.fit(peft_folder.read(peft).state, expected, where=str(peft))

    found = fuzz(read, bad_safetensors(good), good=good, folder=folder, errors=CHECKPOINT, count=cases(100))
    assert found.mostly_refused


def converter(folder: Path, source: Path, file: str, way: Callable[[Path, Path], None]) -> Callable[[bytes], None]:
    """Converts a folder with another content of one file."""

    def read(content: bytes) -> None:
        (source / file).write_bytes(content)
        shutil.rmtree(folder / "made", ignore_errors=True)
        way(source, folder / "made")

    return read


SMALL = {**meta_llama.PARAMS, "n_layers": 1, "dim": 8, "n_heads": 2}


@pytest.fixture
def meta(folder: Path) -> Path:
    state = meta_llama.random_model(SMALL, ffn=4, vocab=6)
    made = meta_llama.write(folder / "meta", meta_llama.cut(state, 2), SMALL)
    (made / "tokenizer.model").write_bytes(b"x")
    return made


def test_metas_parameters(meta: Path, folder: Path) -> None:
    good = SMALL | {"n_kv_heads": 2, "max_seq_len": 64, "rope_theta": 1e4}
    read = converter(folder, meta, llama.PARAMS, llama.import_)
    written = json.dumps(good).encode()
    assert fuzz(read, bad_json(good), good=written, folder=folder, errors=CHECKPOINT).mostly_refused


@pytest.mark.parametrize("shard", ["consolidated.01.pth", "consolidated.00.pth"])
def test_metas_shards(shard: str, meta: Path, folder: Path) -> None:
    """The first of them says how large all are."""
    read, good = converter(folder, meta, shard, llama.import_), (meta / shard).read_bytes()
    inputs = bad_torch_file(torch.load(meta / shard, weights_only=True), under=None)
    assert fuzz(read, inputs, good=good, folder=folder, errors=CHECKPOINT, count=cases(100)).mostly_refused


HF_FILES: dict[str, Callable[[bytes], st.SearchStrategy[bytes]]] = {
    "config.json": lambda good: bad_json(json.loads(good)),
    llama.META: lambda good: bad_json(json.loads(good)),
    llama_export.SINGLE: bad_safetensors,
    llama_export.INDEX: lambda good: bad_json(json.loads(good)),
}


@pytest.mark.parametrize("file", HF_FILES)
def test_hugging_face_llamas_on_their_way_back(file: str, meta: Path, folder: Path) -> None:
    source = folder / "hugging face"
    llama.import_(meta, source)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    needed = {name: value for name, value in config.items() if name not in ("architectures", "dtype", "mlp_bias")}
    (source / "config.json").write_text(json.dumps(needed | {"head_dim": 4}), encoding="utf-8")
    if file == llama_export.INDEX:
        names = functools.reduce(set.union, (set(found) for found in [llama_export._files(source)]), set[str]())
        weight_map: Any = dict.fromkeys(sorted(names), llama_export.SINGLE)
        (source / file).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    read = converter(folder, source, file, llama_export.export)
    good = (source / file).read_bytes()
    inputs = HF_FILES[file](good)
    assert fuzz(read, inputs, good=good, folder=folder, errors=CHECKPOINT, count=cases(80)).mostly_refused
