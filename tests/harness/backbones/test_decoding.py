"""Greedy and beam search against Hugging Face's own on the plain language model, and with methods attached."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import MistralConfig, MistralForCausalLM

import methods
from harness import backbones
from harness.backbones.decoding import GreedySteps, greedy
from harness.backbones.inputs import select
from tests.attaching import attach, pictures, randomise
from tests.tiny_backbone import LLM, TEXT

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
def test_greedy_chooses_what_forwards_without_a_cache_choose(name: str, sharp_model: DecoderModel) -> None:
    randomise(attach(name, sharp_model))
    images = [*pictures(2), None]
    batch = sharp_model.encode(PROMPTS, answers=None, images=images)
    for row, chosen in enumerate(greedy(sharp_model, batch, max_new_tokens=7)):
        alone = select(batch, row)
        for token in chosen:
            with torch.inference_mode():
                assert int(sharp_model.logits(alone)[0, -1].argmax()) == token
            longer = torch.cat([alone.input_ids, torch.tensor([[token]])], dim=1)
            alone = dataclasses.replace(alone, input_ids=longer, labels=longer, lengths=alone.lengths + 1)


TEXTS = [[" a red ball.", " B"], [" x", " nothing at all", " so"], [" one of many."]]


def check_texts(model: DecoderModel, images: list[torch.Tensor | None], texts: list[list[str]]) -> None:
    """Each text is as likely as one forward of its prompt and it, alone and without a cache, says."""
    batch = model.encode(PROMPTS, answers=None, images=images)
    found = model.continuation_logprobs(batch, texts)
    assert [len(row) for row in found] == [len(row) for row in texts]
    for row, asked in enumerate(texts):
        alone = select(batch, row)
        for text, logprob in zip(asked, found[row], strict=True):
            added = torch.tensor([model.text.continuation(text)])
            ids, lengths = torch.cat([alone.input_ids, added], dim=1), alone.lengths + added.numel()
            longer = dataclasses.replace(alone, input_ids=ids, labels=ids, lengths=lengths)
            with torch.inference_mode():
                logprobs = model.logits(longer)[0].log_softmax(dim=-1)[-added.numel() - 1 : -1]
            assert logprob == pytest.approx(float(logprobs.gather(1, added.T).sum()), abs=1e-4)


@pytest.mark.parametrize("name", methods.names())
def test_a_text_is_as_likely_as_a_forward_without_a_cache_says(name: str, tiny_model: DecoderModel) -> None:
    randomise(attach(name, tiny_model))
    check_texts(tiny_model, [*pictures(2), None], TEXTS)


@pytest.mark.parametrize("window", [30, 100])
def test_texts_behind_attention_that_slides(window: int, tiny_folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Also where they fit the window behind their own prompts, and behind the padding of a batch they would not."""
    llm, vision = tiny_folders
    shutil.copytree(llm, tmp_path / "mistral")
    config = MistralConfig(**LLM, **TEXT, num_attention_heads=4, num_key_value_heads=2, sliding_window=window)
    MistralForCausalLM(config).save_pretrained(tmp_path / "mistral")
    model = backbones.load(backbones.BackboneSpec("tiny", str(tmp_path / "mistral"), str(vision)))
    assert model.max_length == window
    check_texts(model, [None] * 3, [[" a red ball.", " B"], [" so"], [" nothing at all, or all"]])


@pytest.mark.parametrize("name", ["full", "llava", "ademvl"])
def test_texts_are_scored_in_bf16_as_a_run_asks_for_them(name: str, tiny_folders: tuple[Path, Path]) -> None:
    spec = backbones.BackboneSpec("tiny", *map(str, tiny_folders))
    found = []
    for precision in ("bf16", "fp32"):
        model = backbones.load(spec, precision=precision)  # type: ignore[arg-type]
        attach(name, model)  # type: ignore[arg-type]
        batch = model.encode(PROMPTS, answers=None, images=[*pictures(2), None])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            found.append(model.continuation_logprobs(batch, TEXTS))
    for half, whole in zip(*found, strict=True):
        assert half == pytest.approx(whole, rel=0.02)


@pytest.mark.parametrize("name", ["full", "llava", "ademvl"])
def test_greedy_works_in_bf16_as_a_run_calls_it(name: str, tiny_folders: tuple[Path, Path]) -> None:
    llm, vision = map(str, tiny_folders)
    model = backbones.load(backbones.BackboneSpec("tiny", llm, vision), precision="bf16")
    attach(name, model)
    batch = model.encode(PROMPTS, answers=None, images=[*pictures(2), None])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = greedy(model, batch, max_new_tokens=5)
        first = model.prefill(batch).logits.argmax(dim=-1)
    assert [row[0] for row in found] == first.tolist()
    assert 1 <= len(found[0]) <= 5


def test_greedy_may_be_asked_for_one_token(sharp_model: DecoderModel) -> None:
    batch = sharp_model.encode(PROMPTS, answers=None, images=[None] * 3)
    first = sharp_model.prefill(batch).logits.argmax(dim=-1)
    assert greedy(sharp_model, batch, max_new_tokens=1) == first[:, None].tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", methods.names())
def test_a_recorded_step_chooses_what_a_plain_one_chooses(name: str, tiny_folders: tuple[Path, Path]) -> None:
    spec = backbones.BackboneSpec("tiny", *map(str, tiny_folders))
    on_cpu, on_gpu = (backbones.load(spec, device=device, precision="fp32") for device in ("cpu", "cuda:0"))
    trained = attach(name, on_cpu)
    randomise(trained)
    attach(name, on_gpu).load_state_dict(trained.state_dict())
    chosen = [
        greedy(model, model.encode(PROMPTS, answers=None, images=[*pictures(2), None]), max_new_tokens=16)
        for model in (on_cpu, on_gpu)
    ]
    assert chosen[0] == chosen[1]


# What they are called depends on whether inference mode is on.
_QUESTIONS = [
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.item.default,
    torch.ops.aten._local_scalar_dense.default,
]


class _NoAnswers(TorchDispatchMode):
    """Refuses to tell the host what is in a tensor, as the device does while a CUDA graph is recorded."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _QUESTIONS:
            raise AssertionError(f"the host waits for the device: {func}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", methods.names())
def test_a_step_after_the_first_asks_the_device_for_nothing(name: str, tiny_model: DecoderModel) -> None:
    attach(name, tiny_model)
    batch = tiny_model.encode(PROMPTS, answers=None, images=[*pictures(2), None])
    steps = GreedySteps(tiny_model, tiny_model.prefill(batch), room=4)
    steps.advance()
    place = int(steps._place)
    with _NoAnswers():
        steps.advance()
    assert int(steps._place) == place + 1


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize("ask", [bool, int, float, torch.Tensor.item])
def test_a_question_to_the_device_is_noticed(ask: Callable[[torch.Tensor], Any], inference: bool) -> None:
    with torch.inference_mode(inference), _NoAnswers(), pytest.raises(AssertionError, match="the host waits for the"):
        ask(torch.ones(()))


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
