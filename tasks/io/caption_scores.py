"""BLEU-1 to 4, METEOR, ROUGE-L, CIDEr and SPICE of generated captions, by pycocoevalcap on text tokenised once.

Every scorer reads what the Stanford tokenizer makes of the captions, and that needs Java: without it no score can be
given, and each says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tasks import Metric
from tasks.io.caption_files import CaptionedImage
from tasks.io.caption_meteor import meteor_score
from tasks.io.caption_spice import spice_score
from tasks.io.caption_tokens import ScorerError, TokenisedCaptions, tokenise
from tasks.io.java import find_java
from tasks.io.same_ids import check_same_ids

NAMES = ("cider", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "spice")


def score_captions(outputs: Mapping[str, str], images: Sequence[CaptionedImage]) -> dict[str, Metric]:
    """All scores of the corpus on the scale of the papers: 100 times what pycocoevalcap gives, unrounded.

    CIDEr weighs words by how rare they are in the references of these very images, so a score over a subset is no
    estimate of that over the whole split.

    Args:
        outputs: the generated caption by example id.
        images: the images with their reference captions.

    Raises:
        ValueError: outputs and images are not about the same ids, or an image comes twice.
    """
    try:
        java, texts = _tokenise(outputs, images)
    except ScorerError as error:
        return {name: _missing(str(error), len(images)) for name in NAMES}
    values: dict[str, Metric] = {"cider": _metric(_cider(texts)[0], len(images))}
    for order, bleu in enumerate(_bleu(texts), start=1):
        values[f"bleu_{order}"] = _metric(bleu, len(images))
    values["meteor"] = _attempt(lambda: meteor_score(java, texts), len(images))
    values["rouge_l"] = _metric(_rouge_l(texts), len(images))
    values["spice"] = _attempt(lambda: spice_score(java, texts), len(images))
    return values


def cider_by_image(outputs: Mapping[str, str], images: Sequence[CaptionedImage]) -> dict[str, float] | None:
    """CIDEr of each image on the same scale; its mean is the corpus's CIDEr. None where it cannot be computed.

    Raises:
        ValueError: as `score_captions`.
    """
    try:
        _, texts = _tokenise(outputs, images)
    except ScorerError:
        return None
    return {id: 100 * score for id, score in zip(texts.references, _cider(texts)[1], strict=True)}


def _tokenise(outputs: Mapping[str, str], images: Sequence[CaptionedImage]) -> tuple[Path, TokenisedCaptions]:
    ids = [image.id for image in images]
    check_same_ids(list(outputs), ids)
    if not images:
        raise ScorerError("there are no examples")
    java = find_java()
    if java is None:
        raise ScorerError("no Java: pip install 'vltune[captions]', or put a java program on the PATH")
    references = {image.id: image.captions for image in images}
    return java, tokenise(java, references, {id: outputs[id] for id in ids})


def _cider(texts: TokenisedCaptions) -> tuple[float, list[float]]:
    from pycocoevalcap.cider.cider import Cider

    score, scores = Cider().compute_score(texts.references, texts.outputs)
    return float(score), [float(value) for value in scores]


def _bleu(texts: TokenisedCaptions) -> list[float]:
    from pycocoevalcap.bleu.bleu import Bleu

    scores, _ = Bleu(4).compute_score(texts.references, texts.outputs, verbose=0)
    return [float(score) for score in scores]


def _rouge_l(texts: TokenisedCaptions) -> float:
    from pycocoevalcap.rouge.rouge import Rouge

    score, _ = Rouge().compute_score(texts.references, texts.outputs)
    return float(score)


def _attempt(scorer: Callable[[], float], n: int) -> Metric:
    try:
        return _metric(scorer(), n)
    except ScorerError as error:
        return _missing(str(error), n)


def _metric(value: float, n: int) -> Metric:
    return Metric(value=100 * value, unit="points", goal="max", n=n)


def _missing(reason: str, n: int) -> Metric:
    return Metric(value=None, unit="points", goal="max", n=n, reason=reason)
