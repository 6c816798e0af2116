"""Pretraining of the mini language model: a byte-level BPE tokenizer and a small Llama on the words of the mini world.

A sequence is [BOS] "Image: " facts rest [EOS] with the three pieces tokenised apart, because methods put a visual token
where the facts stand; a third of the sequences has no image prefix and reads the facts as context.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.backbones.mini.pretrain_schedule import rate_factor
from tasks.mini import knowledge, text, world
from tasks.mini.world import sample_scene

SPECIALS = ("<unk>", "<s>", "</s>", "<pad>")
BOS, EOS, PAD = 1, 2, 3
LETTERS = "ABCDE"
PROMPT_WEIGHT, FRAME_WEIGHT, CAPTION_WEIGHT, DRILL_WEIGHT, ANSWER_WEIGHT = 0.02, 0.1, 0.2, 1.0, 3.0
"""Loss weights of prompts, of "The answer is", of captions, and of the answers of drills and of lettered questions."""

Piece = tuple[str, float]
"""Text tokenised on its own, and its loss weight."""


@dataclass(frozen=True)
class TextRecipe:
    """Sizes and schedule of the language model's pretraining."""

    steps: int = 4000
    batch_size: int = 32
    lr: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    width: int = 128
    ffn: int = 384
    layers: int = 4
    heads: int = 4
    vocab: int = 1024


def build_tokenizer(seed: int, vocab: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on world text; any unicode text can be encoded."""
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIALS[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    rng = Random(seed)
    corpus = ("".join(piece for piece, _ in sample_pieces(rng, 0.5)) for _ in range(20_000))
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=SPECIALS[0],
        bos_token=SPECIALS[1],
        eos_token=SPECIALS[2],
        pad_token=SPECIALS[3],
        model_max_length=512,
    )


def sample_pieces(rng: Random, progress: float) -> list[Piece]:
    """One training text; drills give way to lettered questions with `progress` (0 to 1)."""
    shares = next(shares for until, shares in _STAGES if progress < until)
    form = rng.choices(_FORMS, shares)[0]
    return _MAKERS[form](rng)


def _lettered(rng: Random) -> list[Piece]:
    question, head, context = _pose(rng)
    prompt = text.qcm_prompt(question.question, question.choices, context)
    return [*head, (prompt, PROMPT_WEIGHT), *_answer(LETTERS[question.answer], ANSWER_WEIGHT)]


def _open(rng: Random) -> list[Piece]:
    question, head, context = _pose(rng)
    prompt = f"Question: {question.question}\nContext: {context or 'N/A'}\nResponse:"
    return [*head, (prompt, PROMPT_WEIGHT), *_answer(question.choices[question.answer], DRILL_WEIGHT)]


def _several(rng: Random) -> list[Piece]:
    """Four questions about one scene, each with its bare answer."""
    scene = sample_scene(rng)
    shown = (" " + text.facts(scene, _maybe(rng)), PROMPT_WEIGHT)
    pieces = [("Image: " if rng.random() < 0.5 else "Context:", PROMPT_WEIGHT), shown]
    for skill in rng.sample(text.IMAGE_SKILLS + text.PLAIN_SKILLS, 4):
        question = text.ask(skill, scene, rng)
        if question is not None:
            pieces += [(f"\nQuestion: {question.question}", PROMPT_WEIGHT)]
            pieces += [(f" {question.choices[question.answer]}", DRILL_WEIGHT)]
    return pieces


def _letters(rng: Random) -> list[Piece]:
    """Options, then eight times the letter of a choice, or the choice of a letter."""
    choices = rng.sample(_WORDS, rng.randint(2, 5))
    prompt = "\n" + text.qcm_prompt("", choices).partition("\n")[2].partition("\n")[2]
    known = [(f" {choice}", f" {letter}") for letter, choice in zip(LETTERS, choices, strict=False)]
    pairs = rng.choices(known, k=8)
    flip = rng.random() < 0.3
    pieces = [(prompt, PROMPT_WEIGHT)]
    for choice, letter in pairs:
        given, wanted = (letter, choice) if flip else (choice, letter)
        pieces += [(given, PROMPT_WEIGHT), (wanted, DRILL_WEIGHT)]
    return pieces


def _chained(rng: Random) -> list[Piece]:
    """The right choice first, then its letter."""
    question, head, context = _pose(rng)
    prompt = text.qcm_prompt(question.question, question.choices, context)
    choice = (f" {question.choices[question.answer]}", DRILL_WEIGHT)
    return [*head, (prompt, PROMPT_WEIGHT), choice, (f" {LETTERS[question.answer]}", DRILL_WEIGHT)]


def _captioned(rng: Random) -> list[Piece]:
    scene = sample_scene(rng)
    shown = (" " + text.facts(scene, _maybe(rng)), PROMPT_WEIGHT)
    caption = (" " + text.captions(scene, rng, 1)[0], CAPTION_WEIGHT)
    return [("Image: ", PROMPT_WEIGHT), shown, ("Caption:", PROMPT_WEIGHT), caption]


_FORMS = ("lettered", "open", "several", "letters", "chained", "captioned")
_STAGES = (
    (0.12, (0.00, 0.00, 0.38, 0.60, 0.02, 0.00)),
    (0.30, (0.30, 0.05, 0.20, 0.25, 0.18, 0.02)),
    (9.99, (0.74, 0.04, 0.06, 0.06, 0.06, 0.04)),
)
"""Share of each form up to the given progress: first dense drills of looking up, then the questions themselves."""
_MAKERS: dict[str, Callable[[Random], list[Piece]]] = {
    "lettered": _lettered,
    "open": _open,
    "several": _several,
    "letters": _letters,
    "chained": _chained,
    "captioned": _captioned,
}


_WORDS = sorted(
    {*world.PLACES, *world.WEATHERS, *world.KINDS, *world.COLOURS, *world.NUMBERS, *world.PATTERNS, *world.LANDMARKS}
    | {*knowledge.NAMES, *knowledge.TOYS, *knowledge.GOODS, *knowledge.COINS, *knowledge.SAMPLES, *knowledge.RESULTS}
    | {*knowledge.PASTS.values(), *knowledge.ANIMALS.values(), *knowledge.CAPITALS.values()}
    | {word for pair in knowledge.OPPOSITES for word in pair}
    | {"more", "fewer", "left", "right"}
)


def _answer(answer: str, weight: float) -> list[Piece]:
    return [("The answer is", FRAME_WEIGHT), (f" {answer}", weight), (".", FRAME_WEIGHT)]


def _pose(rng: Random, skill: str | None = None) -> tuple[text.Question, list[Piece], str]:
    """A question (of a random skill by default), the pieces before it and its context."""
    skill = skill or rng.choice(text.SKILLS)
    while True:
        scene = sample_scene(rng)
        question = text.ask(skill, scene, rng)
        if question is not None:
            return question, *_place_facts(question, text.facts(scene, _maybe(rng)), rng)


def encode(tokenizer: PreTrainedTokenizerFast, pieces: list[Piece]) -> tuple[list[int], list[float]]:
    """Token ids with BOS and EOS, and the loss weight of predicting each."""
    ids, weights = [BOS], [0.0]
    for piece, weight in pieces:
        found = tokenizer.backend_tokenizer.encode(piece).ids
        ids += found
        weights += [weight] * len(found)
    return [*ids, EOS], [*weights, weights[-1]]


def train_text(
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    recipe: TextRecipe,
    checkpoint: Callable[[LlamaForCausalLM, int], None] | None = None,
    every: int = 1000,
) -> LlamaForCausalLM:
    """Next-token training on freshly sampled world text; calls `checkpoint(model, step)` every so many steps."""
    torch.manual_seed(seed)
    model: LlamaForCausalLM = LlamaForCausalLM(_config(tokenizer, recipe)).train()
    _match_queries_to_keys(model)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))
    factor = functools.partial(rate_factor, warmup=recipe.warmup_steps, steps=recipe.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    started, running = time.perf_counter(), 0.0
    for step, (ids, weights) in enumerate(_batches(tokenizer, Random(seed + 1), recipe), start=1):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        wanted = weights[:, 1:].flatten()
        loss = (losses * wanted).sum() / wanted.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        running += loss.item()
        if step % 250 == 0:
            print(f"text {step} loss {running / 250:.4f} {time.perf_counter() - started:.0f} s", flush=True)
            running = 0.0
        if checkpoint is not None and step % every == 0:
            checkpoint(model, step)
    model.eval()
    return model


def text_accuracy(llm_dir: Path, n: int, *, seed: int = 1) -> dict[str, float]:
    """Share of lettered questions answered right per skill (and "overall"), the facts given as text.

    `n` questions over all skills, half with facts at the image's place and half with facts as context.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(llm_dir)
    model = LlamaForCausalLM.from_pretrained(llm_dir, dtype=torch.float32).eval()
    return model_accuracy(model, tokenizer, n, seed=seed)


@torch.no_grad()
def model_accuracy(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, n: int, *, seed: int = 1
) -> dict[str, float]:
    """`text_accuracy` of a model in memory: the argmax over " A", " B", ... after "The answer is"."""
    rng = Random(seed)
    letter_ids = [tokenizer.backend_tokenizer.encode(f" {letter}").ids[0] for letter in LETTERS]
    right: dict[str, list[float]] = {skill: [] for skill in text.SKILLS}
    for number in range(n):
        skill, question = text.SKILLS[number % len(text.SKILLS)], None
        while question is None:
            scene = sample_scene(rng)
            question = text.ask(skill, scene, rng)
        head, context = _place_facts(question, text.facts(scene), rng, with_prefix=rng.random() < 0.5, dropped=0.0)
        prompt = text.qcm_prompt(question.question, question.choices, context) + "The answer is"
        ids = encode(tokenizer, [*head, (prompt, 0.0)])[0][:-1]
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        guess = logits[letter_ids[: len(question.choices)]].argmax().item()
        right[skill].append(float(guess == question.answer))
    accuracy = {skill: sum(hits) / len(hits) for skill, hits in right.items() if hits}
    return accuracy | {"overall": sum(sum(hits) for hits in right.values()) / n}


def _maybe(rng: Random) -> Random | None:
    return rng if rng.random() < 0.5 else None


def _place_facts(
    question: text.Question,
    facts: str,
    rng: Random,
    *,
    with_prefix: bool | None = None,
    dropped: float = 0.1,
) -> tuple[list[Piece], str]:
    """The pieces before the question, and its context; the facts stand in one of the two or (rarely) nowhere."""
    prefix = rng.random() < 2 / 3 if with_prefix is None else with_prefix
    if question.needs != "image":
        return ([("Image: N/A", PROMPT_WEIGHT)] if prefix else []), question.hint
    caption = rng.choice(text.VAGUE_CAPTIONS) if rng.random() < 0.3 else ""
    shown = "" if rng.random() < dropped else facts
    if prefix:
        return [("Image: ", PROMPT_WEIGHT), *([(" " + shown, PROMPT_WEIGHT)] if shown else [])], caption
    return [], " ".join(part for part in (caption, shown) if part)


@torch.no_grad()
def _match_queries_to_keys(model: LlamaForCausalLM, std: float = 0.12) -> None:
    """Start half of each layer's heads with equal query and key projections, so that tokens attend to their likes.

    Looking a word up elsewhere in the text is what every skill needs; from the usual start it is found only after
    thousands of steps.
    """
    for layer in model.model.layers:
        attention = layer.self_attn
        matched = attention.q_proj.weight.shape[0] // 2
        attention.k_proj.weight[:matched].normal_(0.0, std)
        attention.q_proj.weight[:matched] = attention.k_proj.weight[:matched]


def _config(tokenizer: PreTrainedTokenizerFast, recipe: TextRecipe) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.ffn,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=512,
        initializer_range=0.05,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        tie_word_embeddings=False,
    )


def _batches(
    tokenizer: PreTrainedTokenizerFast, rng: Random, recipe: TextRecipe, bucket: int = 32
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of similar length, padded on the right (pad tokens have weight 0)."""
    for first in range(0, recipe.steps, bucket):
        count = min(bucket, recipe.steps - first)
        progress = first / recipe.steps
        encoded = [encode(tokenizer, sample_pieces(rng, progress)) for _ in range(count * recipe.batch_size)]
        encoded.sort(key=lambda pair: len(pair[0]))
        starts = list(range(0, len(encoded), recipe.batch_size))
        rng.shuffle(starts)
        for start in starts:
            rows = encoded[start : start + recipe.batch_size]
            longest = max(len(ids) for ids, _ in rows)
            ids = torch.tensor([ids + [PAD] * (longest - len(ids)) for ids, _ in rows])
            weights = torch.tensor([w + [0.0] * (longest - len(w)) for _, w in rows])
            yield ids, weights
