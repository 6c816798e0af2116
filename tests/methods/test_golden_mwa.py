"""Fidelity: `mwa` on BEiT-3 against outputs and gradients of the authors' code, one layer and the whole model."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

import methods
from harness.backbones.beit3 import checkpoint
from harness.backbones.beit3.load import load
from harness.backbones.beit3.model import EncoderModel
from harness.backbones.beit3.multiway import BEiT3, BEiT3Shape
from harness.backbones.beit3.text import byte_ids
from methods import Attachment, Batch
from tests.golden import GOLDEN, skip_without_golden
from tests.tiny_beit3 import tiny_beit3

skip_without_golden()
pytestmark = pytest.mark.realdata
DTYPES = {"f32": torch.float32, "f64": torch.float64}
# golden/README.md: f32 outputs 2e-5, gradients 2e-6; a re-implementation in f64 agrees to 2.3e-14.
OUTPUTS = {"f32": 2e-5, "f64": 1e-12}
GRADIENTS = {"f32": 2e-6, "f64": 1e-12}
ADAPTED = re.compile(r"layers\.\d+\.(adaptmlp_text|adaptmlp_vision|enhancemlp)\.")
LAYER_RUNS: dict[str, dict[str, Any] | None] = {
    "both": {},
    "both_noenhance": {"enhancer": "none"},
    "text_only_mode": {"modalities": "image"},  # the authors' swapped names: `text` adapters serve images
    "vision_only_mode": {"modalities": "text"},
    "none": None,
    "both_ln_in": {"layernorm": "in"},
    "both_ln_out": {"layernorm": "out"},
}
MODEL_RUNS: dict[str, dict[str, Any] | None] = {
    "both": {},
    "both_noenhance": {"enhancer": "none"},
    "plain": None,
    "loss_vision": {},
    "loss_text": {},
}


def present(folder: str, runs: dict[str, Any]) -> list[str]:
    """The documented runs whose vectors are at hand."""
    names = {name.split("/")[0] for name in load_file(GOLDEN / folder / "data.safetensors")}
    assert names - {"in", "weights"} <= set(runs)
    return [run for run in runs if run in names]


def attach(model: EncoderModel, fields: dict[str, Any] | None, official: dict[str, Tensor]) -> Attachment:
    """`mwa` with a run's settings and the golden weights; `frozen` for a run without adapters."""
    if fields is None:
        return methods.get("frozen").attach(model, 0)
    attachment = methods.get("mwa", bottleneck=8, enhancer_hidden=128, **fields).attach(model, 0)
    attachment.load_state_dict({name: official[name] for name, _ in attachment.named_parameters()})
    return attachment


def near(actual: Tensor, golden: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, golden.to(actual.dtype).reshape(actual.shape), rtol=0, atol=tolerance)


# One layer ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def layer_data() -> dict[str, Tensor]:
    return load_file(GOLDEN / "mwa_layer" / "data.safetensors")


def one_layer(data: dict[str, Tensor], dtype: torch.dtype) -> tuple[EncoderModel, dict[str, Tensor]]:
    """A backbone of one layer that holds the golden weights, and the adapters' weights."""
    weights = {f"layers.0.{n.removeprefix('weights/')}": t for n, t in data.items() if n.startswith("weights/")}
    shape = BEiT3Shape(width=64, layers=1, heads=4, ffn=128, patch=8, image_size=32, vocab=100, text_positions=32)
    nothing: dict[str, Any] = {"weights_path": None, "tokenizer_path": None}
    model = load("golden", shape=shape, device="cpu", dtype=dtype, **nothing)
    backbone = {name: tensor.to(dtype) for name, tensor in weights.items() if not ADAPTED.match(name)}
    assert set(backbone) == {f"layers.0.{name}" for name in model.encoder.encoder.layers[0].state_dict()}
    model.encoder.encoder.load_state_dict(backbone, strict=False)
    return model, weights


@pytest.mark.parametrize("precision", ["f32", "f64"])
@pytest.mark.parametrize(("kind", "split"), [("image", 12), ("text", 0), ("fused", 5)])
@pytest.mark.parametrize("run", present("mwa_layer", LAYER_RUNS))
def test_layer_equals_the_authors_layer(
    run: str, kind: str, split: int, precision: str, layer_data: dict[str, Tensor]
) -> None:
    dtype = DTYPES[precision]
    model, official = one_layer(layer_data, dtype)
    attachment = attach(model, LAYER_RUNS[run], official)
    outputs: list[Tensor] = []
    model.encoder.encoder.layers[0].register_forward_hook(lambda _, args, out: outputs.append(out))
    x = layer_data["in/x"].to(dtype).detach().requires_grad_()
    model.hidden(x, split=split, visible=~layer_data["in/padding_mask"])
    near(outputs[0], layer_data[f"{run}/{kind}/{precision}/out"], OUTPUTS[precision])
    (outputs[0] * layer_data["in/out_weight"].to(dtype)).sum().backward()
    if precision == "f32":  # gradients are given in f64 only
        return
    assert x.grad is not None
    near(x.grad, layer_data[f"{run}/{kind}/f64/grad_x"], GRADIENTS["f64"])
    own = {name.removeprefix("layers.0."): p.grad for name, p in attachment.named_parameters() if p.grad is not None}
    prefix = f"{run}/{kind}/f64/grad/"
    golden = {name.removeprefix(prefix): t for name, t in layer_data.items() if name.startswith(prefix)}
    assert {name for name in own if name.startswith("adapt")} == {name for name in golden if name.startswith("adapt")}
    for name, gradient in golden.items():
        near(own[name], gradient, GRADIENTS["f64"])


# The whole model ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model_data() -> dict[str, Tensor]:
    return load_file(GOLDEN / "mwa_model" / "data.safetensors")


def golden_model(run: str, dtype: torch.dtype) -> tuple[EncoderModel, Attachment]:
    """The official state dict through the shipped reader, then `mwa` with its part of it.

    The golden texts are given as ids, so there is no tokenizer to load.
    """
    config = json.loads((GOLDEN / "mwa_model" / "meta.json").read_text())["config"]
    shape = BEiT3Shape(
        width=config["encoder_embed_dim"],
        layers=config["encoder_layers"],
        heads=config["encoder_attention_heads"],
        ffn=config["encoder_ffn_embed_dim"],
        patch=config["patch_size"],
        image_size=config["img_size"],
        vocab=config["vocab_size"],
        text_positions=config["max_source_positions"],
    )
    weights = GOLDEN / "mwa_model" / "weights.safetensors"
    encoder = BEiT3(shape)
    read = checkpoint.read(weights, encoder.state_dict())
    encoder.load_state_dict(read.encoder)
    encoder.requires_grad_(False).eval().to(dtype)
    assert read.head is not None
    head = {name: tensor.to(dtype) for name, tensor in read.head.items()}
    model = EncoderModel("golden", encoder, shape, byte_ids(), native_head=head)
    official = {name.removeprefix("beit3.encoder."): tensor for name, tensor in load_file(weights).items()}
    return model, attach(model, MODEL_RUNS[run], official)


def golden_batch(data: dict[str, Tensor], dtype: torch.dtype) -> Batch:
    ids, padding = data["in/input_ids"], data["in/padding_mask"]
    pixels = data["in/image"].to(dtype)
    return Batch(ids, (padding == 0).sum(dim=1), torch.full_like(ids, -100), pixels, torch.arange(len(ids)))


def contrast(vision: Tensor, language: Tensor, scale: Tensor, run: str) -> tuple[Tensor, Tensor]:
    """Logits per image and InfoNCE, symmetric or one way."""
    logits = scale.exp() * vision @ language.T
    targets = torch.arange(len(logits))
    ways = {"loss_vision": (logits,), "loss_text": (logits.T,)}.get(run, (logits, logits.T))
    return logits, torch.stack([F.cross_entropy(way, targets) for way in ways]).mean()


@pytest.mark.parametrize("precision", ["f32", "f64"])
@pytest.mark.parametrize("run", present("mwa_model", MODEL_RUNS))
def test_model_equals_the_authors_model(run: str, precision: str, model_data: dict[str, Tensor]) -> None:
    dtype, at = DTYPES[precision], f"{run}/{precision}"
    model, attachment = golden_model(run, dtype)
    batch = golden_batch(model_data, dtype)
    assert model.native_head is not None
    heads = {name: tensor.clone().requires_grad_() for name, tensor in model.native_head.items()}
    near(model.read_images(batch.pixel_values), model_data[f"{at}/image_out"], OUTPUTS[precision])
    near(model.read_texts(batch), model_data[f"{at}/text_out"], OUTPUTS[precision])
    near(model.fused(batch), model_data[f"{at}/fused_out"], OUTPUTS[precision])
    texts = Batch(batch.input_ids, batch.lengths, batch.labels, batch.pixel_values[:0], batch.image_rows[:0])
    vision = F.normalize(F.linear(model.embed(batch), heads["vision_head.weight"]), dim=-1)
    language = F.normalize(F.linear(model.embed(texts), heads["language_head.weight"]), dim=-1)
    near(vision, model_data[f"{at}/vision_cls"], OUTPUTS[precision])
    near(language, model_data[f"{at}/language_cls"], OUTPUTS[precision])
    logits, loss = contrast(vision, language, heads["logit_scale"], run)
    near(logits, model_data[f"{at}/logits_per_image"], OUTPUTS[precision])
    near(loss, model_data[f"{at}/loss"], OUTPUTS[precision])
    loss.backward()
    check_gradients(model_data, f"{at}/grad/", attachment, heads, GRADIENTS[precision])


def check_gradients(
    data: dict[str, Tensor], prefix: str, attachment: Attachment, heads: dict[str, Tensor], tolerance: float
) -> None:
    own = {f"beit3.encoder.{name}": p.grad for name, p in attachment.named_parameters()}
    own |= {name: tensor.grad for name, tensor in heads.items()}
    golden = {name.removeprefix(prefix): tensor for name, tensor in data.items() if name.startswith(prefix)}
    for name, gradient in golden.items():
        found = own[name]
        assert found is not None, name
        near(found, gradient, tolerance)


def test_fused_gradients_equal_the_authors(model_data: dict[str, Tensor]) -> None:
    model, attachment = golden_model("both", torch.float64)
    out = model.fused(golden_batch(model_data, torch.float64))
    (out * model_data["in/fused_out_weight"].to(out.dtype)).sum().backward()
    assert any(name.startswith("both/f64/grad_fused/") for name in model_data)
    check_gradients(model_data, "both/f64/grad_fused/", attachment, {}, GRADIENTS["f64"])
    assert all(p.grad is None for name, p in attachment.named_parameters() if "adaptmlp" in name)


def test_trained_names_are_the_authors() -> None:
    names = json.loads((GOLDEN / "mwa_model" / "trainable_names.json").read_text())["itc_like_checkpoint_with_heads"]
    model = tiny_beit3(device="meta")  # of as many layers
    ours = {f"beit3.encoder.{name}" for name, _ in methods.get("mwa").attach(model, 0).named_parameters()}
    assert ours == set(names)
