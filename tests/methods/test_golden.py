"""Fidelity: the shipped methods against outputs and gradients of the authors' code on small random models."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

import methods
from harness.backbones.clip_llama import byte_tokenizer, load_vision
from harness.backbones.decoder import DecoderModel
from harness.backbones.encoding import IGNORED, TextEncoder
from harness.backbones.vision import VisionTower
from harness.checkpoints.authors import ours
from methods import Attachment, Batch
from methods.kernels.memory_read import memory_read
from tests.golden import GOLDEN, skip_without_golden

skip_without_golden()
pytestmark = pytest.mark.realdata
DTYPES = {"f32": torch.float32, "f64": torch.float64}
# golden/README.md: f32 logits 2e-5, gradients 2e-6; f64 through stock Hugging Face Llama 1e-5 on logits
LOGITS = {"f32": 2e-5, "f64": 1e-5}
GRADIENTS = {"f32": 2e-6, "f64": 2e-6}


def fusion_cases() -> list[tuple[str, str]]:
    return [
        (form, case)
        for form in ("adem", "memvp")
        for case in json.loads((GOLDEN / f"{form}_fusion" / "meta.json").read_text())["cases"]
    ]


@pytest.mark.parametrize("precision", ["f32", "f64"])
@pytest.mark.parametrize(("form", "case"), fusion_cases())
def test_fusion_equals_the_authors_module(form: str, case: str, precision: str) -> None:
    folder = GOLDEN / f"{form}_fusion"
    meta = json.loads((folder / "meta.json").read_text())["cases"][case]
    data = load_file(folder / "data.safetensors")
    names = ("x", "image_embeds", "emb1", "emb2")
    given = {name: data[f"{meta['inputs_from']}/in/{name}"].to(DTYPES[precision]).requires_grad_() for name in names}
    keys, values = given["image_embeds"] + given["emb1"], given["image_embeds"] + given["emb2"]
    out = memory_read(given["x"], keys, values, form=form, drop_ratio=meta["drop_ratio"] or 0.0)  # type: ignore[arg-type]
    (out * data[f"{meta['inputs_from']}/in/out_weight"].to(out.dtype)).sum().backward()
    tolerance = {"rtol": 1e-5, "atol": 2e-5} if precision == "f32" else {"rtol": 1e-12, "atol": 1e-12}
    expected = {name: data[f"{case}/{precision}/{name}"] for name in ("out", *(f"grad_{n}" for n in names))}
    torch.testing.assert_close(out, expected["out"], **tolerance)
    for name in names:
        torch.testing.assert_close(given[name].grad, expected[f"grad_{name}"], **tolerance)


class _PrefixTexts(TextEncoder):
    """The golden prefixes are given as ids, not as text."""

    def __init__(self, prefixes: dict[str, list[int]]) -> None:
        super().__init__(byte_tokenizer(), max_length=128)
        self.ids = lambda text: tuple(prefixes[text])


def golden_model(method: str, dtype: torch.dtype) -> tuple[DecoderModel, Attachment, dict[str, Tensor]]:
    folder = GOLDEN / f"{method}_model"
    meta = json.loads((folder / "meta.json").read_text())
    config = meta["variants"]["default"]["config"]
    llm: PreTrainedModel = LlamaForCausalLM.from_pretrained(folder / "hf_llama", dtype=dtype)
    encoder, images = load_vision(str(folder / "hf_clip_vision"), dtype)
    for part in (llm, encoder):
        part.requires_grad_(False).eval()
    prefixes = {"": [], "Image: ": meta["prefix_img"], "Image: N/A": meta["prefix_nonimg"]}
    model = DecoderModel("golden", llm, VisionTower(encoder, image_size=224), _PrefixTexts(prefixes), images)
    sizes = {"hidden": meta["hidden_proj"], "vision_adapter": meta["adapter_dim"]}
    if method == "adem":
        fields = {k: config[k] for k in ("alpha", "beta", "drop_ratio")}
        chosen = methods.get(
            "ademvl", **fields, scales=tuple(config["down_sample_num"]), cls=config["with_cls"], **sizes
        )
    else:
        chosen = methods.get(
            "memvp", scale=config["adapter_scale"], image_scale=config["image_scale"], slots=config["emb"], **sizes
        )
    attachment = chosen.attach(model, seed=0)
    official = load_file(folder / "adapters.safetensors")
    attachment.load_state_dict({ours(name): tensor for name, tensor in official.items()})
    attachment.train(False)
    return model, attachment, load_file(folder / "inputs.safetensors")


def golden_batch(inputs: dict[str, Tensor], dtype: torch.dtype) -> Batch:
    ids, labels = inputs["input_ids"], inputs["labels"]
    rows = inputs["indicators"].nonzero().flatten()
    lengths = torch.tensor([int(row.nonzero().max()) + 1 for row in ids])
    pixels = (inputs["images_i8"].to(dtype) / 32)[rows]
    return Batch(ids, lengths, labels.masked_fill(labels == 0, IGNORED), pixels, rows)


@pytest.mark.parametrize("precision", ["f32", "f64"])
@pytest.mark.parametrize("method", ["adem", "memvp"])
def test_model_equals_the_authors_model(method: str, precision: str) -> None:
    dtype = DTYPES[precision]
    model, attachment, inputs = golden_model(method, dtype)
    batch = golden_batch(inputs, dtype)
    expected = load_file(GOLDEN / f"{method}_model" / "outputs.safetensors")
    loss = model.loss(batch)
    loss.backward()
    torch.testing.assert_close(loss, expected[f"{precision}/loss"].to(dtype).squeeze(), rtol=0, atol=LOGITS[precision])
    logits, golden = model.logits(batch), expected[f"{precision}/logits"]
    for row, length in enumerate(model.inputs(batch).lengths.tolist()):
        end = min(length, golden.shape[1])
        torch.testing.assert_close(logits[row, :end], golden[row, :end], rtol=0, atol=LOGITS[precision])
    without = set(json.loads((GOLDEN / f"{method}_model" / "meta.json").read_text())["variants"]["default"]["no_grad"])
    parameters = dict(attachment.named_parameters())
    for key in (k for k in expected if k.startswith(f"{precision}/grad/")):
        gradient = parameters.pop(ours(key.removeprefix(f"{precision}/grad/"))).grad
        torch.testing.assert_close(gradient, expected[key].to(dtype), rtol=0, atol=GRADIENTS[precision])
    assert set(parameters) == {ours(name) for name in without}
    assert all(parameter.grad is None for parameter in parameters.values())
