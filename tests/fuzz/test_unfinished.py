"""What an interrupted run left behind: never trusted where it is damaged, made anew, and the run goes on."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn

import tasks
from harness.backbones.features import FeatureStore, _checksum, _header, picture_keys
from harness.resume import randomness, training_state
from harness.resume.answers import KeptAnswers, _line
from harness.resume.claims import Claim, Claims
from harness.resume.every import Every
from harness.resume.keeper import Keeper
from harness.resume.loop import Loop
from harness.resume.training_state import DESCRIPTION, TENSORS, _seal, _sha256
from harness.store import StoreError
from tasks import Prediction
from tests.fuzz.mutations import bad_json, damaged
from tests.fuzz.refusals import cases, check_line, fuzz
from tests.fuzz.tensors import bad_safetensors

BELONGS = {"cell": "c"}
KEY = "a" * 64


def loop(seed: int = 0) -> Loop:
    """A training of two parameters that has made one step."""
    torch.manual_seed(seed)
    trained = {"a": nn.Parameter(torch.randn(2, 2)), "b": nn.Parameter(torch.randn(2))}
    accelerator = Accelerator(cpu=True)
    optimizer = accelerator.prepare(torch.optim.AdamW(list(trained.values())))
    sum(p.square().sum() for p in trained.values()).backward()  # type: ignore[union-attr]
    optimizer.step()
    return Loop(trained, optimizer, accelerator)


REST: dict[str, Any] = {
    "step": 1, "losses": [1.0], "step_ms": [2.0], "samples": 4, "wall_s": 1.0, "parts": 1, "cut_at": [], "resumed": [],
    "ended": None,
}  # fmt: skip


class Refused(ValueError):
    """What was said of a state, an answer or a file that is not used."""


def values(of: Loop) -> list[Tensor]:
    tensors = [t for part in of.optimizer.state_dict()["state"].values() for t in part.values()]
    return [*(p.detach().clone() for p in of.trained.values()), *map(torch.clone, tensors), torch.get_rng_state()]


@pytest.fixture
def resume(folder: Path) -> Callable[[], None]:
    """Goes on from what lies there into another training; raises what was said where that starts anew."""
    before, kept = loop(), loop(seed=1)
    state = kept.state(randomness.on_cpu(), **REST)
    training_state.write(folder / "training-00000001", state, BELONGS)

    def go_on() -> None:
        said: list[str] = []
        keeper = Keeper(folder, BELONGS, Every(), said.append)
        start = values(before)
        found = keeper.latest(before.restore)
        refused = [line for line in said if line.startswith("not continued")]
        assert (found is None) == bool(refused)
        if found is not None:
            before.restore(loop().state(randomness.on_cpu(), **REST))
            return
        assert all(torch.equal(a, b) for a, b in zip(values(before), start, strict=True)), "half of it was taken"
        raise Refused(refused[0])

    go_on()
    return go_on


def test_training_states(resume: Callable[[], None], folder: Path) -> None:
    path = folder / "training-00000001" / DESCRIPTION
    good = json.loads(path.read_text(encoding="utf-8"))

    def read(content: bytes) -> None:
        path.write_bytes(content)
        resume()

    whole, errors = path.read_bytes(), (Refused,)
    found = fuzz(read, bad_json(good), good=whole, folder=folder, errors=errors, count=cases(100))
    assert not found.read, "a description that was changed is trusted"


def test_training_states_of_another_program(resume: Callable[[], None], folder: Path) -> None:
    """With a seal that fits."""
    path = folder / "training-00000001" / DESCRIPTION
    good = json.loads(path.read_text(encoding="utf-8"))
    del good["seal"]
    short = {**good, "random": {"python": [3, [1, 2], None], "numpy": good["random"]["numpy"]["bit_generator"]}}

    def read(content: bytes) -> None:
        with contextlib.suppress(ValueError, RecursionError, TypeError):
            found = json.loads(content)
            content = json.dumps({**found, "seal": _seal(found)}).encode()
        path.write_bytes(content)
        resume()

    inputs, written = st.one_of(bad_json(short), bad_json(good)), json.dumps(good).encode()
    assert fuzz(read, inputs, good=written, folder=folder, errors=(Refused,)).mostly_refused


def test_tensors_of_training_states(resume: Callable[[], None], folder: Path) -> None:
    """With and without a hash that fits."""
    path = folder / "training-00000001"
    good = (path / TENSORS).read_bytes()
    said = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
    del said["seal"]

    def read(case: tuple[bytes, bool]) -> None:
        content, fitting = case
        (path / TENSORS).write_bytes(content)
        described = said | ({"sha256": _sha256(path / TENSORS)} if fitting else {})
        (path / DESCRIPTION).write_text(json.dumps({**described, "seal": _seal(described)}), encoding="utf-8")
        resume()

    inputs, errors = st.tuples(bad_safetensors(good), st.booleans()), (Refused,)
    assert fuzz(read, inputs, good=(good, False), folder=folder, errors=errors, count=cases(100)).mostly_refused


GOOD_ROWS = [
    {"ids": [str(n)], "ms": 1.5, "class": "Prediction", "predictions": [{"id": str(n), "output": "A", "choice": 0}]}
    for n in range(4)
]


def sealed_lines(rows: list[str]) -> bytes:
    header = json.dumps({"belongs": BELONGS}, sort_keys=True)
    lines = [
        _line(header),
        *(b"%s %08x\n" % (raw := row.encode("utf-8", "surrogatepass"), zlib.crc32(raw)) for row in rows),
    ]
    return b"".join(lines)


def answers(folder: Path) -> Callable[[bytes], None]:
    """Opens a file as an evaluation does, asks for every batch and adds one that is lacking."""
    path = folder / "answers.jsonl"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        said: list[str] = []
        with KeptAnswers(path, BELONGS, tasks.get("scienceqa"), said.append) as kept:
            found = [kept.of([str(n)]) for n in range(4)]
            for n, one in enumerate(found):
                assert one is None or [p.id for p in one[0]] == [str(n)]
                assert one is None or type(one[1]) in (int, float)
            kept.keep([Prediction("9", "B", 1)], 1.0)
        with KeptAnswers(path, BELONGS, tasks.get("scienceqa"), said.append) as again:
            assert again.of(["9"]) == ([Prediction("9", "B", 1)], 1.0)
        if None in found:
            raise Refused(f"{path}: {found.count(None)} answers are made again; {said}")

    return read


def test_answers(folder: Path) -> None:
    """A flipped bit or a cut shows in a checksum: what is damaged is answered again."""
    good = sealed_lines([json.dumps(row) for row in GOOD_ROWS])
    inputs, errors = damaged(good), (Refused,)
    assert fuzz(answers(folder), inputs, good=good, folder=folder, errors=errors, count=cases(100)).mostly_refused


def test_answers_of_another_program(folder: Path) -> None:
    """With checksums that fit."""
    rest = [json.dumps(row) for row in GOOD_ROWS[1:]]
    tensor = {"tensor": "AAAA", "dtype": "float32", "shape": [1]}
    odd = GOOD_ROWS[0] | {"predictions": [{"id": "0", "output": tensor, "choice": 0}]}
    lines: SearchStrategy[bytes] = st.one_of(bad_json(GOOD_ROWS[0]), bad_json(odd))
    whole = lines.map(lambda line: sealed_lines([*rest, line.decode("utf-8", "surrogateescape").replace("\n", " ")]))
    good = sealed_lines([json.dumps(row) for row in GOOD_ROWS])
    assert fuzz(answers(folder), whole, good=good, folder=folder, errors=(Refused,)).mostly_refused


HEADER = {"dtype": "float32", "shape": [3, 2, 6]}


def features(folder: Path, kept: FeatureStore) -> None:
    """Every picture's features are what its tower gives."""
    for number in range(3):
        pixels = torch.full((1, 3, 2, 2), float(number))
        made = kept.features(pixels, picture_keys(pixels), lambda given: given.flatten(1).unflatten(1, (2, 6)) * 2)
        assert torch.equal(made, pixels.flatten(1).unflatten(1, (2, 6)) * 2), "features of something else are trusted"


@pytest.fixture
def stored(folder: Path) -> Path:
    kept = FeatureStore(folder, capacity=3, name="cell")
    features(folder, kept)
    kept.close()
    return folder / "cell"


@pytest.mark.parametrize("file", ["index", "features"])
def test_features(file: str, stored: Path, folder: Path) -> None:
    good = {name: (stored / name).read_bytes() for name in ("index", "features")}

    def read(content: bytes) -> None:
        for name, whole in good.items():
            (stored / name).write_bytes(whole)
        (stored / file).write_bytes(content)
        kept = FeatureStore(folder, capacity=3, name="cell")
        fewer = len(kept._rows) < 3
        features(folder, kept)
        kept.close()
        if fewer:
            raise Refused(f"{folder}: rows were damaged")

    inputs, errors = damaged(good[file]), (Refused,)
    assert fuzz(read, inputs, good=good[file], folder=folder, errors=errors, count=cases(100)).mostly_refused


def test_features_of_another_program(stored: Path, folder: Path) -> None:
    """With checksums that fit; of a tower that gives the same pictures other shapes."""
    rows, others = torch.zeros(3, 2, 6), 7.0 + torch.arange(3.0)[:, None, None, None].expand(3, 3, 2, 2)
    keys = picture_keys(others)
    entries = b"".join(key + _checksum(row) for key, row in zip(keys, rows, strict=True))

    def read(header: bytes) -> None:
        (stored / "features").write_bytes(rows.numpy().tobytes())
        (stored / "index").write_bytes(_header(header.replace(b"\n", b" ")) + entries)
        kept = FeatureStore(folder, capacity=3, name="cell")
        fewer = len(kept._rows) < 3
        features(folder, kept)
        kept.close()
        if fewer:
            raise Refused(f"{folder}: rows were damaged")

    good = json.dumps(HEADER).encode()
    assert fuzz(read, bad_json(HEADER), good=good, folder=folder, errors=(Refused,)).mostly_refused


@pytest.mark.parametrize("way", ["index is a folder", "features is a folder", "a file", "a link"])
def test_features_where_something_is_in_the_way(way: str, stored: Path, folder: Path) -> None:
    for file in ("index", "features"):
        if way == f"{file} is a folder":
            (stored / file).unlink()
            (stored / file).mkdir()
    if way in ("a file", "a link"):
        stored.rename(folder / "elsewhere")
        stored.write_text("x") if way == "a file" else stored.symlink_to(folder / "nowhere")
    kept = FeatureStore(folder, capacity=3, name="cell")
    features(folder, kept)
    kept.close()


def test_claims(folder: Path) -> None:
    """Any claim is either respected or taken over, whatever is written in it."""
    good = {"host": "elsewhere", "pid": 1, "boot": "b", "space": "s", "began": "0", "token": "t"}
    claims = Claims(folder, beat_s=60)
    path = folder / "claims" / KEY / "1"

    def read(content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        found = claims.take(KEY)
        if isinstance(found, Claim):
            found.release()
            raise Refused(f"{path}: was taken over")
        path.unlink()

    inputs, written = st.one_of(bad_json(good), bad_json(_own())), json.dumps(good).encode()
    found = fuzz(read, inputs, good=written, folder=folder, errors=(Refused,))
    assert found.read
    assert found.refused


def _own() -> dict[str, Any]:
    from harness.resume.claims import _ourselves

    return _ourselves() | {"pid": 2**22 + 1}


@pytest.mark.parametrize("name", ["9" * 200, "٣", "-1", "1.5", "x", ".1", "007"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_strange_names_among_claims(name: str, kind: str, folder: Path) -> None:
    path = folder / "claims" / KEY / name
    path.parent.mkdir(parents=True)
    path.mkdir() if kind == "folder" else path.touch()
    found = Claims(folder, stale_s=-1, beat_s=60).take(KEY)
    assert isinstance(found, Claim)
    found.release()


def test_a_file_where_the_claims_belong(folder: Path) -> None:
    (folder / "claims").write_text("x")
    with pytest.raises(StoreError, match="cannot be written") as caught:
        Claims(folder).take(KEY)
    check_line(caught.value, names=str(folder))
