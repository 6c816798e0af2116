"""Beam search against Hugging Face's own on the plain language model, and with methods attached."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import methods
from tests.contract.test_methods import attach, pictures, randomise

if TYPE_CHECKING:
    from harness.backbones.decoder import DecoderModel

PROMPTS = ["a picture of", "what is this, please?", "x"]


def new_tokens(model: DecoderModel, prompt: str, **options: float) -> str:
    """What Hugging Face's generate makes of one prompt."""
    ids = torch.tensor([[*model.text.bos, *model.text.ids(prompt)]])
    made = model.llm.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=3, eos_token_id=2, **options
    )
    return model.text.decode(made[0, ids.shape[1] :].tolist())


@pytest.fixture
def sharp_model(tiny_model: DecoderModel) -> DecoderModel:
    """Its end token is likely now and then, so that hypotheses of unequal lengths compete."""
    with torch.no_grad():
        tiny_model.llm.lm_head.weight.mul_(3)
        tiny_model.llm.lm_head.weight[2].add_(tiny_model.llm.lm_head.weight[65] * 0.9)
    return tiny_model


@pytest.mark.parametrize("length_penalty", [0.6, 1.0, 2.0])
@pytest.mark.parametrize("beams", [2, 3, 5])
def test_beam_search_is_hugging_faces(beams: int, length_penalty: float, sharp_model: DecoderModel) -> None:
    batch = sharp_model.encode(PROMPTS, answers=None, images=[None] * 3)
    found = sharp_model.generate(batch, max_new_tokens=8, beams=beams, length_penalty=length_penalty)
    options = {"num_beams": beams, "length_penalty": length_penalty, "max_new_tokens": 8}
    assert found == [new_tokens(sharp_model, prompt, **options) for prompt in PROMPTS]


def test_one_beam_is_greedy_as_hugging_faces(sharp_model: DecoderModel) -> None:
    batch = sharp_model.encode(PROMPTS, answers=None, images=[None] * 3)
    found = sharp_model.generate(batch, max_new_tokens=8)
    assert found == [new_tokens(sharp_model, prompt, max_new_tokens=8) for prompt in PROMPTS]


@pytest.mark.parametrize("name", methods.names())
def test_beams_of_a_row_do_not_depend_on_its_batch(name: str, sharp_model: DecoderModel) -> None:
    randomise(attach(name, sharp_model))
    images = [*pictures(2), None]
    together = sharp_model.generate(sharp_model.encode(PROMPTS, answers=None, images=images), max_new_tokens=6, beams=3)
    for row, prompt in enumerate(PROMPTS):
        alone = sharp_model.encode([prompt], answers=None, images=images[row : row + 1])
        assert sharp_model.generate(alone, max_new_tokens=6, beams=3) == together[row : row + 1]


@pytest.mark.parametrize("name", methods.names())
def test_a_beam_is_scored_as_a_full_forward_scores_it(name: str, sharp_model: DecoderModel) -> None:
    """The winner of a wide search over two tokens is the best of all two-token texts."""
    randomise(attach(name, sharp_model))
    [text] = sharp_model.generate(
        sharp_model.encode(["a picture of"], answers=None, images=pictures(1)),
        max_new_tokens=2,
        beams=200,
        length_penalty=0.0,
    )
    batch = sharp_model.encode(["a picture of"], answers=None, images=pictures(1))
    first = sharp_model.prefill(batch).logits.log_softmax(dim=-1)[0]
    totals = []
    for token in range(260):
        state = sharp_model.step(sharp_model.prefill(batch), torch.tensor([token]))
        totals.append(first[token] + state.logits.log_softmax(dim=-1)[0])
    every = torch.stack(totals)
    every[2] = float("-inf")
    every[2, 0] = first[2]  # it ended after one token
    best = divmod(int(every.argmax()), 260)
    assert text == sharp_model.text.decode([best[0]] if best[0] == 2 else list(best))
