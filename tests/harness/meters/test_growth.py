"""FLOPs counted on shallow backbones and without a product computed, against those of the whole one."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from typing import cast

import pytest
import torch

import methods
from harness import backbones, cli
from harness.backbones import BackboneError, BackboneSpec
from harness.backbones.decoder import DecoderModel
from harness.meters import growth
from harness.meters.flops import count

MINI = BackboneSpec("mini")
CHOSEN = [
    ("frozen", methods.get("frozen")),
    ("ademvl", methods.get("ademvl", scales=(64, 16))),
    ("memvp", methods.get("memvp", slots=80)),
    ("mwa", methods.get("mwa")),
    ("lora", methods.get("lora")),
    ("llava", methods.get("llava", train_llm=True)),
    ("full", methods.get("full")),
]


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, int, int], growth.Cost]:
    costs, refused = growth.costs(CHOSEN, MINI, [20, 45])
    assert refused == {}
    return {(cost.method, cost.text_tokens, cost.images): cost for cost in costs}


@pytest.mark.parametrize("name", [name for name, _ in CHOSEN])
@pytest.mark.parametrize("images", [0, 1])
def test_the_whole_backbone_takes_what_three_shallow_ones_tell(
    name: str, images: int, found: dict[tuple[str, int, int], growth.Cost]
) -> None:
    """Every product is computed here, in all four layers of both towers."""
    spec = dataclasses.replace(MINI, weights="random", text_tokens=45)
    model = cast("DecoderModel", backbones.load(spec, precision="bf16"))
    attachment = dict(CHOSEN)[name].attach(model, seed=0)
    pixels = [torch.zeros(3, model.image_size, model.image_size) if images else None]
    batch = model.encode(["A"], answers=[" B"], images=pixels)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.loss(batch)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]

    assert found[name, 45, images].train == count(step)
    with torch.autocast("cpu", torch.bfloat16):
        asked = model.encode(["A"], answers=None, images=pixels)
        read = model.prefill(asked)
        assert found[name, 45, images].prefill == count(partial(model.prefill, asked))
        assert found[name, 45, images].token == count(partial(model.step, read, torch.zeros(1, dtype=torch.long)))
    attachment.detach()


def test_each_row_is_as_long_as_asked(found: dict[tuple[str, int, int], growth.Cost]) -> None:
    """A language model of width D, I within its FFN, takes 2 (4 D^2 + 3 D I) FLOPs a token and layer in products of
    weights, 4 D a pair of tokens in attention, and what its head takes for the one next token."""
    model = cast("DecoderModel", backbones.load(dataclasses.replace(MINI, weights="random"), device="meta"))
    config = model.llm.config
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    kv = config.num_key_value_heads / config.num_attention_heads
    for tokens in (20, 45):
        products = 2 * tokens * (2 * width**2 * (1 + kv) + 3 * width * inner)
        attention = 4 * tokens**2 * width
        head = 2 * width * config.vocab_size
        assert found["frozen", tokens, 0].prefill == layers * (products + attention) + head


def test_a_memory_costs_less_than_tokens_in_the_input(found: dict[tuple[str, int, int], growth.Cost]) -> None:
    assert found["memvp", 45, 1].prefill < found["lora", 45, 1].prefill
    assert found["memvp", 45, 1].train < found["lora", 45, 1].train
    assert found["frozen", 45, 1] == dataclasses.replace(found["frozen", 45, 0], images=1)


def test_the_exponent_is_that_of_a_power() -> None:
    assert growth.exponent([1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0]) == pytest.approx(2)
    assert growth.exponent([5], [1.0]) is None
    assert growth.exponent([1, 2], [0.0, 1.0]) is None


def test_a_method_that_does_not_fit_is_left_out_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["flops", "--methods", "memvp,frozen", "--backbone", "mini", "--set", "memvp.slots=10"]
    assert cli.main([*command, "--text-tokens", "32,16"]) == 0
    said = capsys.readouterr().out
    assert "Left out: memvp (" in said
    assert "| frozen " in said
    assert said.index("16 tokens TFLOP") < said.index("32 tokens TFLOP")


def test_json_holds_every_cost(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["flops", "--methods", "frozen", "--text-tokens", "16,32", "--format", "json"]
    assert cli.main(command) == 0
    costs = json.loads(capsys.readouterr().out)["costs"]
    assert [(cost["text_tokens"], cost["images"]) for cost in costs] == [(16, 0), (16, 1), (32, 0), (32, 1)]


@pytest.mark.parametrize(
    ("spec", "lengths", "says"),
    [
        (MINI, [100_000], "--text-tokens 100000: mini has room for"),
        (BackboneSpec("beit3-base"), [16], "beit3-base writes no text; run --plan results/plans/cost-beit3.toml"),
    ],
)
def test_what_cannot_be_counted_is_refused(spec: BackboneSpec, lengths: list[int], says: str) -> None:
    with pytest.raises(BackboneError, match=says):
        growth.costs(CHOSEN[:1], spec, lengths)


@pytest.mark.parametrize("spec", [MINI, BackboneSpec("beit3-base", weights="random")])
def test_only_a_decoder_with_random_weights_has_as_many_layers_as_asked(spec: BackboneSpec) -> None:
    with pytest.raises(BackboneError, match="layers can be chosen for a decoder with random weights only"):
        backbones.load(dataclasses.replace(spec, layers=(2, 3)))


@pytest.mark.parametrize("text", ["", ",", "0", "16,-1", "a"])
def test_a_length_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["flops", "--methods", "frozen", "--text-tokens", text]) == 2
    assert "--text-tokens" in capsys.readouterr().err
