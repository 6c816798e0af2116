"""Image captioning as on COCO (Chen et al. 2015): say what a picture shows, scored against several captions.

Prompt, text clean-up, picture transform and decoding are those of ADEM-VL's caption experiment; where its code has
oddities, an option says which way is meant. Deviations: its training also cuts rows to 30 tokens (here captions are cut
to `max_words` words); its "test" reads Karpathy's val.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from tasks import Example, ExampleScore, Metric, Model, Prediction, setting
from tasks.io.caption_files import CaptionedImage
from tasks.io.caption_scores import cider_by_image, score_captions
from tasks.io.caption_text import blip_caption, continued_caption, published_caption
from tasks.io.of_kind import of_kind
from tasks.io.picture_task import CaptionTask
from tasks.io.pictures import NORMS
from tasks.io.same_ids import check_same_ids

CODE = "ADEM-VL, util/coco_karpathy_dataset.py"


@dataclass(frozen=True)
class CaptionPrediction(Prediction):
    """A generated caption and its own CIDEr in points, None where there are no scores."""

    cider: float | None = None


@dataclass(frozen=True, kw_only=True)
class CocoCaption(CaptionTask):
    """Describe the picture in one sentence. A limit counts images; training takes every caption of each."""

    primary: ClassVar[str] = "cider"

    prompt: str = setting("a picture of", "what the caption continues", source="ADEM-VL, eval_caption.py")
    max_new_tokens: int = setting(20, "tokens of a caption at most", source="ADEM-VL, eval_caption.py")
    beams: int = setting(1, "beams of the search; 1 is greedy", source="ADEM-VL; BEiT-3 uses 3")
    length_penalty: float = setting(
        1.0, "beams rank by log-probability / length ** length_penalty", source="BEiT-3 uses 0.6"
    )
    train_text: str = setting(
        "prompt+caption",
        "the answer of training is the caption, or the prompt once more and the caption",
        choices=("prompt+caption", "prompt+prompt+caption"),
        source=f"{CODE} adds the prompt twice",
    )
    train_clean: str = setting(
        "blip",
        'captions of training in lower case without .!"()*#:;~, or as they are',
        choices=("blip", "none"),
        source=CODE,
    )
    max_words: int = setting(
        30, "captions of training are cut to so many words", source=f"{CODE}, which then cuts rows to as many tokens"
    )
    captions_per_image: str = setting(
        "all",
        "train every caption of an image, or the same one of them throughout",
        choices=("all", "one"),
        source=CODE,
    )
    image_norm: str = setting(
        "clip",
        "constants that normalise pictures; `backbone`: those its vision tower was trained with",
        choices=NORMS,
        source=CODE,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_new_tokens", "beams", "max_words"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.prompt.strip():
            raise ValueError("prompt must not be blank; a caption needs words to continue")

    def examples(self, split: Literal["train", "val", "test"], root: Path, *, limit: int | None) -> list[Example]:
        """One example per image for val and test; for train one per caption, with id `image#number` from 0.

        Args:
            split: of the data set.
            root: see `read_captions`.
            limit: a fixed subset of so many images.

        Raises:
            DataError: see `read_captions`.
            ValueError: a limit below 1.
        """
        images = self._read(split, root, limit=limit)
        if split != "train":
            return list(images)
        return [pair for image in images for pair in self._pairs(image)]

    def _pairs(self, image: CaptionedImage) -> list[CaptionedImage]:
        numbers = range(len(image.captions))
        if self.captions_per_image == "one":
            digest = hashlib.sha256(f"caption {image.id}".encode()).digest()
            numbers = range(start := int.from_bytes(digest[:8]) % len(numbers), start + 1)
        return [replace(image, id=f"{image.id}#{n}", captions=(image.captions[n],)) for n in numbers]

    def texts(self, examples: Sequence[Example], *, train: bool) -> list[tuple[str, str]]:
        """The prompt; in training, the (first) caption of each example as the answer, after a blank."""
        images = _images(examples)
        return [(self.prompt, self._answer(image.captions[0]) if train else "") for image in images]

    def _answer(self, caption: str) -> str:
        text = blip_caption(caption) if self.train_clean == "blip" else " ".join(caption.split())
        again = f" {self.prompt}" if self.train_text == "prompt+prompt+caption" else ""
        return f"{again} {' '.join(text.split(' ')[: self.max_words])}"

    def batch(self, model: Model, examples: Sequence[Example], *, train: bool) -> Any:
        """What the model encodes: texts and pictures, squashed to its size (or augmented) and normalised.

        Raises:
            DataError: a picture is missing or broken.
        """
        texts = self.texts(examples, train=train)
        images = self._training_images(examples, model) if train else self._batch_images(examples, model)
        answers = [answer for _, answer in texts] if train else None
        return model.encode([prompt for prompt, _ in texts], answers=answers, images=images)

    def loss(self, model: Model, batch: Any) -> Tensor:
        """Mean cross-entropy over the caption tokens of the batch."""
        return model.loss(batch)

    def predict(self, model: Model, batch: Any, examples: Sequence[Example]) -> list[Prediction]:
        """A caption per image: what the model generates, without a repeated prompt and further lines."""
        outputs = model.generate(
            batch, max_new_tokens=self.max_new_tokens, beams=self.beams, length_penalty=self.length_penalty
        )
        return [
            CaptionPrediction(example.id, self._clean(output))
            for example, output in zip(examples, outputs, strict=True)
        ]

    def _clean(self, output: str) -> str:
        if self.train_text == "prompt+prompt+caption":
            return published_caption(output)
        return continued_caption(output, self.prompt.strip())

    def conclude(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> list[Prediction]:
        """The same captions with the CIDEr of each, so that two runs can be compared image by image.

        Raises:
            ValueError: not exactly one prediction for each example.
        """
        scores = cider_by_image(_outputs(predictions, examples), _images(examples)) or {}
        return [CaptionPrediction(p.id, p.output, cider=scores.get(p.id)) for p in predictions]

    def score(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, Metric]:
        """CIDEr, BLEU-1 to 4, METEOR, ROUGE-L and SPICE; null with the reason where they cannot be computed.

        Raises:
            ValueError: not exactly one prediction for each example.
        """
        return score_captions(_outputs(predictions, examples), _images(examples))

    def example_scores(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, ExampleScore]:
        """The CIDEr of each image, as `conclude` has noted it."""
        found = {p.id: p.cider for p in predictions if isinstance(p, CaptionPrediction)}
        if None in found.values():
            return {}
        return {id: ExampleScore(id, cider) for id, cider in found.items() if cider is not None}


def _images(examples: Sequence[Example]) -> list[CaptionedImage]:
    return of_kind(examples, CaptionedImage, "coco_caption describes captioned images")


def _outputs(predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, str]:
    check_same_ids([prediction.id for prediction in predictions], [example.id for example in examples])
    return {prediction.id: prediction.output for prediction in predictions}
