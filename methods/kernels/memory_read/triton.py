"""`memory_read` as fused Triton kernels: the scores of a forward never leave the chip.

Three kernels. The forward gives each program some tokens of one row: it sums their scores over D, drops the lowest and
reads the values. The backward recomputes the scores, writes them and their gradients once ([B, T, S], far smaller than
anything with D) and turns them into the gradient of x; the third kernel sums the gradients of keys and values over T.
Sums are in float32; scores are rounded to the inputs' dtype, as a matrix product rounds them.

Slots are held as two powers of two, HEAD + TAIL (320 = 256 + 64), so that padding costs little. Names in capitals are
compile-time constants. `operators.py` launches them. Imported only for CUDA tensors or under TRITON_INTERPRET=1.
"""

from __future__ import annotations

import inspect
from typing import Any

import triton
import triton.language as tl

from methods.kernels.memory_read import INTERPRETED

_LEAST = 16  # the smallest side of a matrix product on tensor cores


def _read_config(tokens: int, columns: int, warps: int, stages: int) -> triton.Config:
    return triton.Config({"BLOCK_T": tokens, "BLOCK_D": columns}, num_warps=warps, num_stages=stages)


def _sum_config(slots: int, columns: int, warps: int) -> triton.Config:
    return triton.Config({"BLOCK_T": 32, "BLOCK_S": slots, "BLOCK_D": columns}, num_warps=warps, num_stages=3)


# For many tokens first (Hopper's wide products need 64 of them), then for few; the last fits 512 slots of float32.
READ_CONFIGS = [
    _read_config(64, 64, 8, 2),
    _read_config(64, 32, 8, 3),
    _read_config(128, 32, 8, 3),
    _read_config(128, 64, 8, 2),
    _read_config(32, 64, 4, 3),
    _read_config(16, 64, 4, 3),
    _read_config(16, 32, 8, 2),
    _read_config(16, 16, 8, 2),
]
SUM_CONFIGS = [_sum_config(64, 64, 4), _sum_config(64, 128, 4), _sum_config(128, 64, 4), _sum_config(128, 128, 8)]


def _tuned(configs: list[triton.Config]) -> Any:
    """Choose among `configs` once per kind of input; remembered on disk where this Triton can."""
    if INTERPRETED:  # which has no clock to choose by, and computes all of a block
        return triton.autotune([min(configs, key=lambda config: config.kwargs["BLOCK_T"])], key=[])
    remembered = "cache_results" in inspect.signature(triton.autotune).parameters
    options = {"cache_results": True} if remembered else {}
    return triton.autotune(configs, key=["tokens", "SLOTS", "WIDTH", "ADEM", "BITS"], **options)


@triton.jit
def _silu(x):
    return x * tl.sigmoid(x)


@triton.jit
def _silu_slope(x):
    gate = tl.sigmoid(x)
    return gate * (1.0 + x * (1.0 - gate))


@triton.jit
def _tile(base, rows, columns, LIMIT, WIDTH: tl.constexpr):
    """Elements [rows, columns] of a row-major matrix of LIMIT x WIDTH; 0 outside."""
    inside = (rows[:, None] < LIMIT) & (columns[None, :] < WIDTH)
    return tl.load(base + rows[:, None] * WIDTH + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _store(base, rows, columns, tile, LIMIT, WIDTH: tl.constexpr):
    """Write the elements that `_tile` reads, in the matrix's own dtype."""
    inside = (rows[:, None] < LIMIT) & (columns[None, :] < WIDTH)
    tl.store(base + rows[:, None] * WIDTH + columns[None, :], tile.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _activated(tile, ADEM: tl.constexpr):
    """What enters a score: silu of it for ADEM-VL, rounded as torch rounds it; itself for MemVP."""
    if ADEM:
        tile = _silu(tile.to(tl.float32)).to(tile.dtype)
    return tile


@triton.jit
def _order(scores, slots, SLOTS: tl.constexpr, BITS: tl.constexpr):
    """Integers in the order of the scores, equal for equal scores (-0 and 0 too); NaN and padding come last."""
    scores = tl.where(scores == 0, 0.0, scores)
    if BITS == 16:
        bits = scores.to(tl.int16, bitcast=True).to(tl.int32)
        bits = bits ^ ((bits >> 15) & 0x7FFF)
    else:
        bits = scores.to(tl.int32, bitcast=True)
        bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return tl.where((slots[None, :] < SLOTS) & (scores == scores), bits, 0x7FFFFFFF)


@triton.jit
def _below(head, tail, bound, TAIL: tl.constexpr):
    """How many integers of each token lie below its bound."""
    count = tl.sum((head < bound[:, None]).to(tl.int32), axis=1)
    if TAIL:
        count += tl.sum((tail < bound[:, None]).to(tl.int32), axis=1)
    return count


@triton.jit
def _smallest(head, tail, rank, TAIL: tl.constexpr, BITS: tl.constexpr):
    """The integer of each token with exactly `rank` places before it in rising order, found bit by bit."""
    LOWEST: tl.constexpr = -0x8000 if BITS == 16 else -0x80000000
    zero = tl.sum(head * 0, axis=1)
    found = tl.where(_below(head, tail, zero, TAIL) <= rank, zero, zero + LOWEST)
    for step in range(BITS - 1):
        raised = found + (1 << (BITS - 2 - step))
        found = tl.where(_below(head, tail, raised, TAIL) <= rank, raised, found)
    return found


@triton.jit
def _kept_share(seed_at, tokens, slots, SLOTS: tl.constexpr, dropout):
    """1 / (1 - dropout) for scores that stay and 0 for the others; the same for the same seed."""
    place = (tokens[:, None] * SLOTS + slots[None, :]).to(tl.int32)
    return tl.where(tl.rand(tl.load(seed_at), place) >= dropout, 1.0 / (1.0 - dropout), 0.0)


@triton.jit
def _both(x, slots_at, columns, head_slots, tail_slots, head, tail, SLOTS: tl.constexpr, WIDTH: tl.constexpr,
          ADEM: tl.constexpr, TAIL: tl.constexpr):  # fmt: skip
    """Add x times the slots' columns to the sums of the head and of the tail."""
    rows = _activated(_tile(slots_at, head_slots, columns, SLOTS, WIDTH), ADEM)
    head = tl.dot(x, tl.trans(rows), head, input_precision="ieee")
    if TAIL:
        rows = _activated(_tile(slots_at, tail_slots, columns, SLOTS, WIDTH), ADEM)
        tail = tl.dot(x, tl.trans(rows), tail, input_precision="ieee")
    return head, tail


@triton.jit
def _mix(head, tail, slots_at, columns, head_slots, tail_slots, SLOTS: tl.constexpr, WIDTH: tl.constexpr,
         ADEM: tl.constexpr, TAIL: tl.constexpr):  # fmt: skip
    """The columns of the slots, weighted by head and tail and summed."""
    rows = _activated(_tile(slots_at, head_slots, columns, SLOTS, WIDTH), ADEM)
    total = tl.dot(head, rows, input_precision="ieee")
    if TAIL:
        rows = _activated(_tile(slots_at, tail_slots, columns, SLOTS, WIDTH), ADEM)
        total = tl.dot(tail, rows, total, input_precision="ieee")
    return total


@triton.jit
def _read(x_at, keys_at, values_at, residual_at, seed_at, out_at, mask_at, tokens, rank, dropout, scale,
          SLOTS: tl.constexpr, WIDTH: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, ADEM: tl.constexpr,
          DROPS: tl.constexpr, RESIDUAL: tl.constexpr, MASK: tl.constexpr, BITS: tl.constexpr,
          BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    own = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    head_slots = tl.arange(0, HEAD)
    tail_slots = HEAD + tl.arange(0, TAIL if TAIL else 16)
    x_at += row * tokens * WIDTH
    keys_at += row * SLOTS * WIDTH
    values_at += row * SLOTS * WIDTH
    out_at += row * tokens * WIDTH
    residual_at += row * tokens * WIDTH
    dtype = x_at.dtype.element_ty

    head = tl.zeros((BLOCK_T, HEAD), tl.float32)
    tail = tl.zeros((BLOCK_T, TAIL if TAIL else 16), tl.float32)
    for start in range(0, WIDTH, BLOCK_D):
        columns = start + tl.arange(0, BLOCK_D)
        x = _activated(_tile(x_at, own, columns, tokens, WIDTH), ADEM)
        head, tail = _both(x, keys_at, columns, head_slots, tail_slots, head, tail, SLOTS, WIDTH, ADEM, TAIL)
    if ADEM:
        head, tail = head.to(dtype), tail.to(dtype)
        if DROPS:
            head_order, tail_order = _order(head, head_slots, SLOTS, BITS), _order(tail, tail_slots, SLOTS, BITS)
            bound = _smallest(head_order, tail_order, rank, TAIL, BITS)[:, None]
            head = tl.where(head_order >= bound, head, 0.0).to(dtype)
            tail = tl.where(tail_order >= bound, tail, 0.0).to(dtype)
            if MASK:
                mask_at += row * tokens * SLOTS
                _store(mask_at, own, head_slots, head_order >= bound, tokens, SLOTS)
                if TAIL:
                    _store(mask_at, own, tail_slots, tail_order >= bound, tokens, SLOTS)
    else:
        head, tail = _silu(head), _silu(tail)
        if DROPS:
            head *= _kept_share(seed_at, row * tokens + own, head_slots, SLOTS, dropout)
            tail *= _kept_share(seed_at, row * tokens + own, tail_slots, SLOTS, dropout)
        head, tail = head.to(dtype), tail.to(dtype)

    for start in range(0, WIDTH, BLOCK_D):
        columns = start + tl.arange(0, BLOCK_D)
        total = scale * _mix(head, tail, values_at, columns, head_slots, tail_slots, SLOTS, WIDTH, False, TAIL)
        if RESIDUAL:
            total += _tile(residual_at, own, columns, tokens, WIDTH).to(tl.float32)
        _store(out_at, own, columns, total, tokens, WIDTH)


@triton.jit
def _score_gradients(scores, grads, mask_at, seed_at, own, first, slots, tokens, dropout, SLOTS: tl.constexpr,
                     ADEM: tl.constexpr, DROPS: tl.constexpr):  # fmt: skip
    """Weights as the forward had them, and the gradient of the raw scores."""
    if ADEM:
        if DROPS:
            kept = _tile(mask_at, own, slots, tokens, SLOTS) != 0
            scores, grads = tl.where(kept, scores, 0.0), tl.where(kept, grads, 0.0)
    else:
        grads *= _silu_slope(scores)
        scores = _silu(scores)
        if DROPS:
            share = _kept_share(seed_at, first + own, slots, SLOTS, dropout)
            scores, grads = scores * share, grads * share
    return scores, grads


@triton.jit
def _read_backward(x_at, keys_at, values_at, seed_at, mask_at, grad_at, weights_at, slopes_at, x_grad_at, tokens,
                   dropout, scale, SLOTS: tl.constexpr, WIDTH: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr,
                   ADEM: tl.constexpr, DROPS: tl.constexpr, BITS: tl.constexpr, BLOCK_T: tl.constexpr,
                   BLOCK_D: tl.constexpr):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    own = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    head_slots = tl.arange(0, HEAD)
    tail_slots = HEAD + tl.arange(0, TAIL if TAIL else 16)
    x_at += row * tokens * WIDTH
    grad_at += row * tokens * WIDTH
    x_grad_at += row * tokens * WIDTH
    keys_at += row * SLOTS * WIDTH
    values_at += row * SLOTS * WIDTH
    mask_at += row * tokens * SLOTS
    weights_at += row * tokens * SLOTS
    slopes_at += row * tokens * SLOTS
    dtype = x_at.dtype.element_ty

    head = tl.zeros((BLOCK_T, HEAD), tl.float32)
    tail = tl.zeros((BLOCK_T, TAIL if TAIL else 16), tl.float32)
    head_grad = tl.zeros((BLOCK_T, HEAD), tl.float32)
    tail_grad = tl.zeros((BLOCK_T, TAIL if TAIL else 16), tl.float32)
    for start in range(0, WIDTH, BLOCK_D):
        columns = start + tl.arange(0, BLOCK_D)
        x = _activated(_tile(x_at, own, columns, tokens, WIDTH), ADEM)
        head, tail = _both(x, keys_at, columns, head_slots, tail_slots, head, tail, SLOTS, WIDTH, ADEM, TAIL)
        grad = _tile(grad_at, own, columns, tokens, WIDTH)
        head_grad, tail_grad = _both(
            grad, values_at, columns, head_slots, tail_slots, head_grad, tail_grad, SLOTS, WIDTH, False, TAIL
        )

    head, head_grad = _score_gradients(
        head, head_grad, mask_at, seed_at, own, row * tokens, head_slots, tokens, dropout, SLOTS, ADEM, DROPS
    )
    _store(weights_at, own, head_slots, head, tokens, SLOTS)
    _store(slopes_at, own, head_slots, head_grad, tokens, SLOTS)
    if TAIL:
        tail, tail_grad = _score_gradients(
            tail, tail_grad, mask_at, seed_at, own, row * tokens, tail_slots, tokens, dropout, SLOTS, ADEM, DROPS
        )
        _store(weights_at, own, tail_slots, tail, tokens, SLOTS)
        _store(slopes_at, own, tail_slots, tail_grad, tokens, SLOTS)
    head_grad, tail_grad = head_grad.to(dtype), tail_grad.to(dtype)
    for start in range(0, WIDTH, BLOCK_D):
        columns = start + tl.arange(0, BLOCK_D)
        x_grad = scale * _mix(head_grad, tail_grad, keys_at, columns, head_slots, tail_slots, SLOTS, WIDTH, ADEM, TAIL)
        if ADEM:
            x_grad *= _silu_slope(_tile(x_at, own, columns, tokens, WIDTH).to(tl.float32))
        _store(x_grad_at, own, columns, x_grad, tokens, WIDTH)


@triton.jit
def _sum_backward(x_at, keys_at, grad_at, weights_at, slopes_at, keys_grad_at, values_grad_at, tokens, scale,
                  SLOTS: tl.constexpr, WIDTH: tl.constexpr, ADEM: tl.constexpr, BITS: tl.constexpr,
                  BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    row = tl.program_id(2).to(tl.int64)
    slots = tl.program_id(0) * BLOCK_S + tl.arange(0, BLOCK_S)
    columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    x_at += row * tokens * WIDTH
    grad_at += row * tokens * WIDTH
    weights_at += row * tokens * SLOTS
    slopes_at += row * tokens * SLOTS

    keys_grad = tl.zeros((BLOCK_S, BLOCK_D), tl.float32)
    values_grad = tl.zeros((BLOCK_S, BLOCK_D), tl.float32)
    for start in range(0, tokens, BLOCK_T):
        read = start + tl.arange(0, BLOCK_T)
        weights = _tile(weights_at, read, slots, tokens, SLOTS)
        grad = _tile(grad_at, read, columns, tokens, WIDTH)
        values_grad = tl.dot(tl.trans(weights), grad, values_grad, input_precision="ieee")
        slopes = _tile(slopes_at, read, slots, tokens, SLOTS)
        x = _activated(_tile(x_at, read, columns, tokens, WIDTH), ADEM)
        keys_grad = tl.dot(tl.trans(slopes), x, keys_grad, input_precision="ieee")
    first = row * SLOTS * WIDTH
    if ADEM:
        keys_grad *= _silu_slope(_tile(keys_at + first, slots, columns, SLOTS, WIDTH).to(tl.float32))
    _store(keys_grad_at + first, slots, columns, scale * keys_grad, SLOTS, WIDTH)
    _store(values_grad_at + first, slots, columns, scale * values_grad, SLOTS, WIDTH)


read_tuned = _tuned(READ_CONFIGS)(_read)
read_backward_tuned = _tuned(READ_CONFIGS)(_read_backward)
sum_backward_tuned = _tuned(SUM_CONFIGS)(_sum_backward)


def _split(slots: int) -> tuple[int, int]:
    """Powers of two that together hold `slots` with the least padding, the larger one first; the second may be 0."""
    whole = max(_LEAST, triton.next_power_of_2(slots))
    head = whole // 2
    tail = max(_LEAST, triton.next_power_of_2(max(1, slots - head)))
    return (head, tail) if head >= _LEAST and head + tail < whole else (whole, 0)
