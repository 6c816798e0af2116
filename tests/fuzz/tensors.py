"""Bad files of tensors: safetensors whose headers lie, torch files with what is no array of numbers."""

from __future__ import annotations

import functools
import io
import json
import struct
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

from tests.fuzz.mutations import NAMES, damaged, wrong_key, wrong_value

CLAIMS = ("[1099511627776]", "[4294967296, 4294967296]", "[0, 4611686018427387904]", "[-1]", "[2500000000]", "[1.5]")
SPANS = ("[0, 10000000000]", "[0, 18446744073709551615]", "[8, 0]", "[-8, 0]", "[0, 0]")
DTYPES = ('"F64"', '"BF16"', '"I64"', '"BOOL"', '"F8_E4M3"', '"F8_E8M0"', '"F4"', '"C64"', '"X"')
LENGTHS = (0, 1, 7, 10 * 2**30, 2**63, 2**64 - 1)


def parts(good: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and numbers of a safetensors file."""
    [length] = struct.unpack("<Q", good[:8])
    return json.loads(good[8 : 8 + length]), good[8 + length :]


def joined(header: str, numbers: bytes, *, length: int | None = None) -> bytes:
    """A safetensors file whose header may say anything."""
    raw = header.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw) if length is None else length) + raw + numbers


def bad_safetensors(good: bytes) -> SearchStrategy[bytes]:
    """A file with a wrong header, one that claims 10 GB, or a damaged one."""
    header, numbers = parts(good)
    size = len(good) - len(numbers)
    lying = wrong_value(header, fragments=(*CLAIMS, *SPANS, *DTYPES))
    return st.one_of(
        lying.map(lambda text: joined(text, numbers)),
        st.one_of(wrong_value(header), wrong_key(header)).map(lambda text: joined(text, numbers)),
        st.sampled_from(LENGTHS).map(lambda length: joined(json.dumps(header), numbers, length=length)),
        damaged(good, within=size),
    )


@functools.cache
def odd_values() -> list[Any]:
    """What is no plain array of usual numbers, and fits no state."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantised tensors are deprecated, and what else is odd is a prototype
        quantised = torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)
        compressed = torch.eye(3).to_sparse_csr()
    deep: list[Any] = []
    for _ in range(900):
        deep = [deep]
    return [
        *(torch.eye(3).to_sparse(), compressed, quantised, torch.empty(4, device="meta")),
        *(torch.zeros(0), torch.tensor(1.0)),
        *(torch.zeros(1).expand(2**40), torch.zeros(1, 1).expand(2**20, 2**20), torch.zeros(1).expand(3 * 10**9)),
        *(torch.full((2,), torch.nan), torch.full((2,), torch.inf), torch.zeros(2, dtype=torch.complex64)),
        *(torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.bool), torch.zeros(2).to(torch.float8_e4m3fn)),
        *(None, 3, 10**4000, "text", b"bytes", [1], deep, {"a": torch.zeros(1)}, torch.Size([2]), torch.float32),
    ]  # fmt: skip


Changed = Callable[[Any], bytes]


def packed(value: Any, *, legacy: bool = False) -> bytes:
    """What `torch.save` writes."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


@st.composite
def wrong_state(
    draw: DrawFn, good: Mapping[str, Tensor], *, legacy: bool = False, under: str | None = "model"
) -> bytes:
    """A torch file whose tensors by name are not what they should be in one place."""
    name, odd = draw(st.sampled_from(sorted(good))), draw(st.sampled_from(odd_values()))
    new: Any = draw(st.sampled_from(["value", "whole", "name", "gone", "shape", "bare"]))
    state: dict[Any, Any] = dict(good)
    if new == "value":
        state[name] = odd
    elif new == "name":
        state[draw(st.sampled_from([*NAMES[:-5], "x" * 300, 3, None, (1, 2)]))] = state.pop(name)
    elif new == "gone":
        del state[name]
    elif new == "shape":
        sizes = draw(st.lists(st.integers(0, 4), max_size=4))
        state[name] = torch.zeros(sizes)
    content: Any = odd if new in ("whole", "bare") else state
    return packed(content if under is None or new == "bare" else {under: content, "epoch": 3}, legacy=legacy)


def bad_torch_file(good: Mapping[str, Tensor], *, under: str | None = "model") -> SearchStrategy[bytes]:
    """Torch files of both kinds, damaged or with something else in them."""
    whole = dict(good) if under is None else {under: dict(good), "epoch": 3}
    kinds = [packed(whole), packed(whole, legacy=True)]
    return st.one_of(
        *(wrong_state(good, legacy=legacy, under=under) for legacy in (False, True)),
        # Numbers that are damaged are numbers; of these files only a part is anything else.
        *(damaged(content, within=len(content) - sum(t.nbytes for t in good.values())) for content in kinds),
    )
