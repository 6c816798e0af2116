"""Loading BEiT-3: shapes, checkpoints by path and what is refused, position embeddings, the tokenizer."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from harness import backbones
from harness.backbones import BackboneError, BackboneSpec
from harness.backbones.beit3 import checkpoint
from harness.backbones.beit3.checkpoint import Weights, resize_positions
from harness.backbones.beit3.load import SHAPES, load
from harness.backbones.beit3.model import EncoderModel
from tests.tiny_beit3 import TINY, tiny_beit3, write_checkpoint


@pytest.fixture(scope="module")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real SentencePiece model with the layout of XLM-R's: <unk> 0, <s> 1, </s> 2, then pieces."""
    trainer = pytest.importorskip("sentencepiece", reason="needs sentencepiece").SentencePieceTrainer
    folder = tmp_path_factory.mktemp("spm")
    words = Path(__file__).read_text(encoding="utf-8")
    (folder / "corpus.txt").write_text(words, encoding="utf-8")
    ids = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
    quiet = {"minloglevel": 2, "num_threads": 1}
    trainer.train(input=str(folder / "corpus.txt"), model_prefix=str(folder / "beit3"), vocab_size=200, **ids, **quiet)
    return (folder / "beit3.model").rename(folder / "beit3.spm")


def read(path: Path, *, image_size: int | None = None) -> Weights:
    """What the tiny backbone takes from a checkpoint."""
    return checkpoint.read(path, tiny_beit3(device="meta", image_size=image_size).encoder.state_dict())


def load_tiny(path: Path, spm: Path, **options: Any) -> EncoderModel:
    options = {"device": "cpu", "dtype": torch.float32, "shape": TINY} | options
    return load("tiny-beit3", weights_path=path, tokenizer_path=spm, **options)


def encoded(model: EncoderModel) -> Tensor:
    picture = torch.randn(3, 56, 56, generator=torch.Generator().manual_seed(0))
    return model.embed(model.encode(["a"], answers=None, images=[picture]))


@pytest.mark.parametrize(("name", "params"), [("beit3-base", 222_167_041), ("beit3-large", 674_799_617)])
def test_the_named_shapes_have_the_official_sizes(name: str, params: int) -> None:
    """Golden README: base at 224 px with heads; large is given at 384 px, with 380 more vision positions of 1,024."""
    model = load(name, weights_path=None, tokenizer_path=None, device="meta", dtype=torch.float32)
    heads = 2 * model.embed_width**2 + 1
    assert sum(p.numel() for p in model.parameters()) + heads == params
    if name == "beit3-large":
        wide = load(name, weights_path=None, tokenizer_path=None, device="meta", dtype=torch.float32, image_size=384)
        assert sum(p.numel() for p in wide.parameters()) + heads == 675_188_737


def test_random_weights_are_seeded() -> None:
    assert torch.equal(encoded(tiny_beit3()), encoded(tiny_beit3()))
    assert not torch.equal(encoded(tiny_beit3()), encoded(tiny_beit3(seed=1)))


def test_random_weights_are_finite_and_frozen() -> None:
    for parameter in tiny_beit3().parameters():
        assert torch.isfinite(parameter).all()
        assert not parameter.requires_grad


@pytest.mark.parametrize("form", ["official", "bare", "parallel", "safetensors"])
def test_a_checkpoint_comes_back_as_it_was(form: str, tmp_path: Path) -> None:
    model = tiny_beit3(seed=3)
    path = write_checkpoint(model, tmp_path / "beit3.pth")
    state = torch.load(path, weights_only=True)["model"]
    if form == "bare":
        torch.save(state, path)
    elif form == "parallel":
        torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    elif form == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(state, path)
    loaded, expected = read(path), model.encoder.state_dict()
    assert set(loaded.encoder) == set(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.encoder.items())
    assert loaded.head is None


def test_a_model_is_loaded_from_two_paths(tmp_path: Path, spm: Path) -> None:
    model = tiny_beit3(seed=3)
    head = {"vision_head.weight": torch.ones(64, 64), "language_head.weight": torch.ones(64, 64)}
    path = write_checkpoint(model, tmp_path / "beit3.pth", head | {"logit_scale": torch.tensor(2.5)})
    loaded = load_tiny(path, spm)
    assert torch.equal(encoded(loaded), encoded(model))
    assert loaded.folders == (path,)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.native_head is not None
    assert loaded.native_head["logit_scale"] == 2.5
    assert not any(tensor.requires_grad for tensor in loaded.native_head.values())
    half = load_tiny(path, spm, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half.native_head is not None
    assert half.native_head["logit_scale"].dtype == torch.float32
    assert load_tiny(path, spm, image_size=112).shape.patches == 64


def test_a_retrieval_head_is_kept_and_other_parts_are_left_out_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    head = {
        "vision_head.weight": torch.randn(64, 64),
        "language_head.weight": torch.randn(64, 64),
        "logit_scale": torch.tensor(2.5),
    }
    others = ("mlm_head.bias", "pooler.dense.weight", "beit3.encoder.layers.0.enhancemlp.fc1.weight")
    extra = head | {name: torch.zeros(4) for name in others}
    loaded = read(write_checkpoint(tiny_beit3(), tmp_path / "beit3.pth", extra))
    assert loaded.head is not None
    assert set(loaded.head) == set(head)
    assert all(torch.equal(loaded.head[name], tensor) for name, tensor in head.items())
    (line,) = caplog.messages
    assert all(name in line for name in others)
    assert "vision_head" not in line


def change(state: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    norm, first, text = (
        f"beit3.encoder.{name}" for name in ("layer_norm.A.bias", "layers.0.ffn.A.fc1.bias", "layers.0.ffn.B.fc1.bias")
    )
    if kind == "names":
        return {k: v for k, v in state.items() if k not in (norm, first)} | {"beit3.encoder.layers.7.x": state[text]}
    if kind == "unknown":
        return state | {"bogus.weight": state[norm]}
    if kind == "shape":
        return state | {text: torch.zeros(96)}
    if kind == "nan":
        return state | {text: torch.full((128,), torch.nan)}
    return state | {"logit_scale": torch.tensor(1.0)}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            "names",
            r"lacks beit3\.encoder\.layer_norm\.A\.bias, beit3\.encoder\.layers\.0\.ffn\.A\.fc1\.bias "
            r"and has unknown beit3\.encoder\.layers\.7\.x; give",
        ),
        ("unknown", r"has unknown bogus\.weight; give"),
        ("shape", r"layers\.0\.ffn\.B\.fc1\.bias has shape \(96,\), expected \(128,\)"),
        ("nan", r"layers\.0\.ffn\.B\.fc1\.bias holds NaN"),
        ("half a head", r"holds logit_scale but not language_head\.weight, vision_head\.weight"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_in_one_line(kind: str, said: str, tmp_path: Path) -> None:
    path = write_checkpoint(tiny_beit3(), tmp_path / "beit3.pth")
    torch.save({"model": change(torch.load(path, weights_only=True)["model"], kind)}, path)
    with pytest.raises(BackboneError, match=said) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


class _Attack:
    """Runs code when it is unpickled, if the reader lets it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_a_pickle_that_needs_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "beit3.pth", tmp_path / "was here"
    torch.save({"model": _Attack(mark)}, path)
    with pytest.raises(BackboneError, match="needs code") as raised:
        read(path)
    assert "\n" not in str(raised.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.pth", b"", "no readable torch file"),
        ("a.pth", b"not a checkpoint at all", "no readable torch file|needs code"),
        ("a.pth", b"PK\x03\x04 cut short", "no readable torch file"),
        ("a.safetensors", b"\x00" * 20, "no readable safetensors file"),
        ("a.pth", None, "no such file"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(name: str, content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BackboneError, match=said) as raised:
        read(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("payload", [[torch.zeros(2)], {"model": {"epoch": 3}}, torch.zeros(3)])
def test_a_file_without_named_tensors_is_refused(payload: object, tmp_path: Path) -> None:
    torch.save(payload, tmp_path / "a.pth")
    with pytest.raises(BackboneError, match="no tensors by name|not a tensor"):
        read(tmp_path / "a.pth")


def test_weights_need_their_tokenizer(tmp_path: Path) -> None:
    path = write_checkpoint(tiny_beit3(), tmp_path / "beit3.pth")
    with pytest.raises(BackboneError, match=r"give the path of beit3\.spm"):
        load("tiny", weights_path=path, tokenizer_path=None, device="cpu", dtype=torch.float32, shape=TINY)


def cubic(x: float, a: float = -0.75) -> float:
    """The cubic convolution kernel with torch's constant."""
    x = abs(x)
    return (a + 2) * x**3 - (a + 3) * x**2 + 1 if x <= 1 else a * (x**3 - 5 * x**2 + 8 * x - 4)


def test_another_image_size_interpolates_the_patches_alone(tmp_path: Path) -> None:
    model = tiny_beit3()
    table = model.encoder.encoder.embed_positions["A"].weight
    with torch.no_grad():
        rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
        table[3:] = (rows + 10 * columns).flatten()[:, None]
    path = write_checkpoint(model, tmp_path / "beit3.pth")
    wide = read(path, image_size=112)
    resized = wide.encoder["encoder.embed_positions.A.weight"]
    assert resized.shape == (3 + 64, 64)
    assert torch.equal(resized[:3], table[:3])
    grid = resized[3:, 0].unflatten(0, (8, 8))
    # The centre of new patch i lies at (i + 1/2) / 2 - 1/2 in the old grid: 3 and 4 at 1.25 and 1.75.
    lower, upper = (sum(cubic(at - k) * k for k in range(4)) for at in (1.25, 1.75))
    expected = [[row + 10 * column for column in (lower, upper)] for row in (lower, upper)]
    torch.testing.assert_close(grid[3:5, 3:5], torch.tensor(expected))


def test_resized_positions_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_checkpoint(tiny_beit3(), tmp_path / "beit3.pth")
    read(path)
    assert caplog.messages == []
    read(path, image_size=112)
    assert caplog.messages == [f"{path}: made for pictures of 56 px, resized to 112 px (see --image-size)"]


@pytest.fixture
def tiny_base(monkeypatch: pytest.MonkeyPatch) -> str:
    """A name under which the tiny shape is loaded."""
    monkeypatch.setitem(SHAPES, "beit3-base", TINY)
    return "beit3-base"


def test_a_spec_says_which_image_size(tiny_base: str, tmp_path: Path) -> None:
    model = backbones.load(BackboneSpec(tiny_base, weights="random", image_size=112))
    assert (model.image_size, model.shape.patches) == (112, 64)
    path = str(write_checkpoint(tiny_beit3(), tmp_path / "beit3.pth"))
    assert backbones.load(BackboneSpec(tiny_base, encoder=path, image_size=112), device="meta").shape.patches == 64
    with pytest.raises(BackboneError, match="beit3-base: image_size must be a multiple of the patch size 14, got 60"):
        backbones.load(BackboneSpec(tiny_base, weights="random", image_size=60))
    with pytest.raises(BackboneError, match="--image-size is for beit3-base and beit3-large"):
        backbones.check(BackboneSpec("mini", image_size=224))


def test_a_file_of_weights_and_random_weights_exclude_each_other(tiny_base: str, tmp_path: Path) -> None:
    path = str(write_checkpoint(tiny_beit3(), tmp_path / "beit3.pth"))
    with pytest.raises(BackboneError, match="--weights random takes none: drop one of the two"):
        backbones.check(BackboneSpec(tiny_base, encoder=path, weights="random"))
    with pytest.raises(BackboneError, match="--encoder nowhere.pth: no such file"):
        backbones.check(BackboneSpec(tiny_base, encoder="nowhere.pth", tokenizer="x.spm"))
    with pytest.raises(BackboneError, match=r"give --encoder FILE\.pth --tokenizer beit3\.spm"):
        backbones.check(BackboneSpec(tiny_base, encoder=path))


def test_sizes_need_no_tokenizer(tiny_base: str, tmp_path: Path) -> None:
    heads = {"vision_head.weight": torch.ones(64, 64), "language_head.weight": torch.ones(64, 64)}
    path = write_checkpoint(tiny_beit3(), tmp_path / "beit3.pth", heads | {"logit_scale": torch.tensor(2.5)})
    model = backbones.load(BackboneSpec(tiny_base, encoder=str(path)), device="meta")
    assert model.native_head is not None
    assert {tensor.device.type for tensor in model.native_head.values()} == {"meta"}


def test_tables_that_fit_or_are_not_square_stay_as_they_are() -> None:
    fitting, odd = torch.randn(19, 4), torch.randn(20, 4)
    assert resize_positions(fitting, 19) is fitting
    assert resize_positions(odd, 67) is odd


def test_an_image_size_must_be_whole_patches() -> None:
    with pytest.raises(BackboneError, match="multiple of the patch size 14, got 60"):
        tiny_beit3(image_size=60)


def test_tokens_are_xlm_r_ids(spm: Path, tmp_path: Path) -> None:
    """Against transformers' own tokenizer where it can read the file (it needs protobuf), and by hand."""
    model = load_tiny(write_checkpoint(tiny_beit3(), tmp_path / "beit3.pth"), spm)
    texts = ["def test_a_checkpoint", "  two  spaces, ½ ﬁ", "", "日本"]
    batch = model.encode(texts, answers=None, images=[None] * 4)
    rows = [row[: int(length)].tolist() for row, length in zip(batch.input_ids, batch.lengths, strict=True)]
    assert rows[2] == [0, 2]
    assert 3 in rows[3]
    import sentencepiece  # type: ignore[import-not-found, import-untyped, unused-ignore]

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(spm)).encode(texts[0])
    assert rows[0] == [0, *[piece + 1 for piece in pieces], 2]
    pytest.importorskip("google.protobuf", reason="transformers reads SentencePiece through protobuf")
    from transformers import XLMRobertaTokenizer

    (tmp_path / "sentencepiece.bpe.model").write_bytes(spm.read_bytes())
    assert rows == XLMRobertaTokenizer.from_pretrained(tmp_path)(texts)["input_ids"]


def test_a_tokenizer_that_does_not_fit_is_refused(spm: Path, tmp_path: Path) -> None:
    path = write_checkpoint(tiny_beit3(), tmp_path / "beit3.pth")
    with pytest.raises(BackboneError, match="no such tokenizer file"):
        load_tiny(path, tmp_path / "none.spm")
    with pytest.raises(BackboneError, match="not a SentencePiece model"):
        load_tiny(path, path)
    small = re.escape("200 pieces do not fit the 150 rows")
    with pytest.raises(BackboneError, match=small):
        load_tiny(path, spm, shape=type(TINY)(width=64, layers=3, heads=4, ffn=128, vocab=150))
