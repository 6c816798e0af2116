"""Decoding on a key-value cache: given tokens, greedy and beam search."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, StaticCache

from harness.backbones.inputs import select

if TYPE_CHECKING:
    from harness.backbones.decoder import DecoderModel
    from methods import Batch


@dataclass(frozen=True)
class Decoding:
    """Where decoding stands: next-token logits [B, V], key-value cache, its mask, next positions."""

    logits: Float[Tensor, "B V"]
    cache: DynamicCache
    visible: Int[Tensor, "B W"]
    positions: Int[Tensor, "B"]

    def repeat(self, copies: int) -> Decoding:
        """Every row `copies` times, copies side by side; the cache is changed in place."""
        self.cache.batch_repeat_interleave(copies)
        logits, visible, positions = (
            part.repeat_interleave(copies, dim=0) for part in (self.logits, self.visible, self.positions)
        )
        return Decoding(logits, self.cache, visible, positions)

    def reorder(self, rows: torch.LongTensor) -> Decoding:
        """The rows in another order, some perhaps twice; the cache is changed in place."""
        self.cache.reorder_cache(rows)
        return Decoding(self.logits[rows], self.cache, self.visible[rows], self.positions[rows])


CAPTURE_FROM = 8  # steps; recording a CUDA graph costs about as much as a few of them


class GreedySteps:
    """Greedy decoding in buffers of fixed size and place, so that a GPU can replay one recorded step.

    Each step costs the host one launch on CUDA instead of one for each operation of each layer. What a method's layers
    read must stay where it is until the last step.

    Args:
        state: where decoding stands; its cache is copied. room: how many tokens may follow the first one.
    """

    @torch.inference_mode()
    def __init__(self, model: DecoderModel, state: Decoding, *, room: int) -> None:
        self._model = model
        width = state.visible.shape[1]
        self._cache = StaticCache(config=model.llm.config, max_cache_len=width + room)
        self._layers: list[Any] = list(self._cache.layers)
        filled: list[Any] = list(state.cache.layers)
        for layer, given in zip(self._layers, filled, strict=True):
            # Under autocast a linear layer's values are of its dtype, even where the rotation has made keys float32.
            kind = model.device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else given.values.dtype
            layer.lazy_initialization(given.keys, given.values)
            layer.values = layer.values.to(dtype)
            layer.update(given.keys, given.values.to(dtype))
        self._places = torch.arange(width + room, device=model.device)
        self._visible = (self._places < state.positions[:, None])[:, None, None]
        self._place = torch.tensor(width, device=model.device)
        self._positions = state.positions.clone()
        self._tokens = state.logits.argmax(dim=-1)
        # One for all steps: a method may ask the device what is in a new one, which no recording can hold.
        self._visual = torch.zeros_like(self._tokens[:, None], dtype=torch.bool)
        self._graph = self._captured() if model.device.type == "cuda" and room >= CAPTURE_FROM else None

    @property
    def tokens(self) -> Int[Tensor, "B"]:
        """The tokens chosen last, at first those of `state`."""
        return self._tokens.clone()

    @torch.inference_mode()
    def advance(self) -> None:
        """Choose the next token of every row."""
        if self._graph is None:
            self._step()
        else:
            self._graph.replay()

    def _step(self) -> None:
        self._visible |= self._places == self._place
        logits = self._model.next_logits(
            self._tokens,
            visual=self._visual,
            attention_mask=self._visible,
            position_ids=self._positions[:, None],
            cache=self._cache,
        )
        self._tokens.copy_(logits.argmax(dim=-1))
        self._positions += 1
        self._place += 1

    def _captured(self) -> torch.cuda.CUDAGraph:
        """A recorded step. One is run before, for kernels that are tuned at their first call, and taken back."""
        moved = [self._visible, self._place, self._positions, self._tokens]
        moved += [layer.cumulative_length for layer in self._layers]
        before = [buffer.clone() for buffer in moved]
        self._step()
        for buffer, value in zip(moved, before, strict=True):
            buffer.copy_(value)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        return graph


def score_continuations(model: DecoderModel, batch: Batch, ids: list[list[list[int]]]) -> list[list[float]]:
    """Summed log-probabilities of continuations, as token ids, of each row.

    Prompts are read once; what follows them is read at once, the n-th continuation of all rows together. Where padding
    between prompts and continuations would push a prompt's beginning out of a model's window, rows stand alone.
    """
    longest = max(len(tokens) for texts in ids for tokens in texts)
    slides = getattr(model.llm.config, "sliding_window", None) is not None
    if slides and len(ids) > 1 and int(batch.lengths.max()) + longest > model.room:
        return [score_continuations(model, select(batch, row), [texts])[0] for row, texts in enumerate(ids)]
    state = model.prefill(batch)
    first = state.logits.log_softmax(dim=-1)
    scores: list[list[float]] = [[] for _ in ids]
    for place in range(max(map(len, ids))):
        rows = [row for row, texts in enumerate(ids) if place < len(texts)]
        tokens_of = {row: ids[row][place] for row in rows}
        later = _later_logprobs(model, state, tokens_of)
        for row in rows:
            scores[row].append(float(first[row, tokens_of[row][0]]) + later.get(row, 0.0))
    return scores


def _later_logprobs(model: DecoderModel, state: Decoding, tokens_of: dict[int, list[int]]) -> dict[int, float]:
    """By row, the summed log-probability of its tokens behind the first; the cache is as before."""
    longest = max(map(len, tokens_of.values())) - 1
    if not longest:
        return {}
    tokens = torch.zeros(len(state.positions), longest, dtype=torch.long)
    targets = torch.full_like(tokens, -1)
    for row, given in tokens_of.items():
        tokens[row, : len(given) - 1] = torch.tensor(given[:-1])
        targets[row, : len(given) - 1] = torch.tensor(given[1:])
    asked = targets >= 0
    logprobs = model.following_logits(state, tokens.to(model.device), asked.to(model.device)).log_softmax(dim=-1)
    state.cache.crop(-longest)  # the number to remove: a length to keep is not taken any more
    found = torch.zeros(targets.shape, dtype=logprobs.dtype)
    found[asked] = logprobs.gather(1, targets[asked].to(model.device)[:, None])[:, 0].cpu()
    return {row: float(found[row].sum()) for row in tokens_of}


@torch.inference_mode()
def greedy(model: DecoderModel, batch: Batch, *, max_new_tokens: int) -> list[list[int]]:
    """The likeliest token at every step, until every row has ended; rows may run on after their end."""
    ends = torch.tensor(model.text.eos, device=model.device)
    steps = GreedySteps(model, model.prefill(batch), room=max_new_tokens - 1)
    chosen = [steps.tokens]
    ended = torch.isin(chosen[0], ends)
    while len(chosen) < max_new_tokens and not ended.all():
        steps.advance()
        chosen.append(steps.tokens)
        ended |= torch.isin(chosen[-1], ends)
    return torch.stack(chosen, dim=1).tolist()


@dataclass
class _Row:
    """The finished hypotheses of one row: (score, tokens), the best `beams` of them."""

    beams: int
    length_penalty: float
    finished: list[tuple[float, list[int]]] = field(default_factory=list)
    done: bool = False

    def add(self, logprob: float, tokens: list[int]) -> None:
        """Note a hypothesis; its length counts the end token where it has one."""
        self.finished.append((logprob / len(tokens) ** self.length_penalty, tokens))
        self.finished.sort(key=lambda scored: -scored[0])
        del self.finished[self.beams :]

    def check(self, best_open: float, length: int) -> None:
        """Done when no open beam, were it to end now, would displace a finished one."""
        if len(self.finished) == self.beams:
            self.done |= self.finished[-1][0] >= best_open / length**self.length_penalty


def beam_search(
    model: DecoderModel, batch: Batch, *, max_new_tokens: int, beams: int, length_penalty: float
) -> list[list[int]]:
    """The best finished hypothesis of each row by summed log-probability / length ** length_penalty.

    Follows the conventions of Hugging Face's beam search without early stopping: twice as many candidates as beams, an
    end token counts only among the best `beams` candidates, open beams are scored at the last step.
    """
    state = model.prefill(batch).repeat(beams)
    count, vocabulary = len(batch.input_ids), state.logits.shape[1]
    rows = [_Row(beams, length_penalty) for _ in range(count)]
    sums = torch.full((count, beams), -torch.inf, device=model.device)
    sums[:, 0] = 0.0  # all beams are the same at first: only one may branch
    sums = sums.to(state.logits.dtype)
    texts: list[list[list[int]]] = [[[] for _ in range(beams)] for _ in range(count)]
    for length in range(1, max_new_tokens + 1):
        totals = sums[:, :, None] + state.logits.log_softmax(dim=-1).view(count, beams, vocabulary)
        best, where = totals.flatten(1).topk(2 * beams, dim=1)
        picked = [
            _branch(row, texts[i], best[i].tolist(), where[i].tolist(), vocabulary, model.text.eos, length)
            for i, row in enumerate(rows)
        ]
        texts = [[texts[i][beam] + [token] for beam, token, _ in kept] for i, kept in enumerate(picked)]
        sums = torch.tensor([[total for _, _, total in kept] for kept in picked]).to(sums)
        if all(row.done for row in rows) or length == max_new_tokens:
            break
        origin = [i * beams + beam for i, kept in enumerate(picked) for beam, _, _ in kept]
        tokens = [token for kept in picked for _, token, _ in kept]
        state = state.reorder(torch.tensor(origin, device=model.device))  # type: ignore[arg-type]
        state = model.step(state, torch.tensor(tokens, device=model.device))
    for i, row in enumerate(rows):
        if not row.done:
            for total, text in zip(sums[i].tolist(), texts[i], strict=True):
                row.add(total, text)
    return [row.finished[0][1] for row in rows]


def _branch(
    row: _Row,
    texts: list[list[int]],
    totals: list[float],
    where: list[int],
    vocabulary: int,
    ends: list[int],
    length: int,
) -> list[tuple[int, int, float]]:
    """The (beam, token, total) that go on, from candidates in falling order; ended ones are noted in `row`."""
    kept: list[tuple[int, int, float]] = []
    for rank, (total, index) in enumerate(zip(totals, where, strict=True)):
        beam, token = divmod(index, vocabulary)
        if token not in ends:
            kept.append((beam, token, total))
        elif rank < row.beams and not row.done:
            row.add(total, [*texts[beam], token])
        if len(kept) == row.beams:
            break
    row.check(totals[0], length)
    return kept
