"""Image-text retrieval as on COCO and Flickr: find an image's captions among all, and a caption's image.

Both sides pass through the same model: an image with a short prompt, a caption alone; linear heads map what the model
makes of them into one space, trained by InfoNCE. Source: BEiT-3's retrieval, as used by MultiWay-Adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from tasks import DataError, Example, ExampleScore, Metric, Model, Prediction, setting
from tasks.io.caption_image import check_unique
from tasks.io.contrast import Heads, info_nce
from tasks.io.of_kind import of_kind
from tasks.io.picture_task import CaptionTask
from tasks.io.ranking import rank_pairs
from tasks.io.retrieval_items import FOLD_IMAGES, Candidates, Item, candidates, ranked_items, training_pairs
from tasks.io.retrieval_metrics import CUTOFFS, Fold, score_ranks
from tasks.io.same_ids import check_same_ids

FOLDS = 5

P = TypeVar("P", bound=Prediction)


@dataclass(frozen=True)
class Pairs:
    """A training batch: what the model encodes of images and of captions, and which image each pair shows."""

    images: Any
    texts: Any
    image_ids: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Embedded(Prediction):
    """The feature of one image or caption: [W] on the CPU, L2-normalised. `Retrieval.conclude` makes ranks of these."""

    vector: Tensor = field(kw_only=True)


@dataclass(frozen=True)
class Ranked(Prediction):
    """Rank from 1 of an image's best caption, or of a caption's image, within its fold; see `rank_pairs` for ties."""

    rank: int = field(kw_only=True)


@dataclass(frozen=True, kw_only=True)
class Retrieval(CaptionTask):
    """Match images and captions. A limit counts images; all captions of an image come with it."""

    primary: ClassVar[str] = "mean_recall"
    needs: ClassVar[frozenset[str]] = frozenset({"embed"})
    divisible: ClassVar[bool] = False

    overlong: str = setting(
        "cut",
        "captions longer than the context: refuse the data, or cut them and count",
        choices=("error", "cut"),
        source="BEiT-3's and MultiWay-Adapter's datasets.py cut to 64 tokens",
    )
    width: int | None = setting(
        None, "of the space both heads map into; none for the backbone's habit. A checkpoint's heads keep theirs"
    )
    image_prompt: str = setting("a picture of", "the text beside an image; an encoder of both modalities leaves it out")
    same_image_negatives: bool = setting(
        False,
        "other captions of an image in the batch count as wrong for it",
        choices=(False, True),
        source="MultiWay-Adapter's code: True",
    )
    direction: Literal["both", "image", "text"] = setting(
        "both",
        "InfoNCE of images against texts, of texts against images, or the mean of both",
        choices=("both", "image", "text"),
    )
    temperature: float = setting(0.07, "at the start; learned as logit_scale = ln(1 / temperature)", source="BEiT-3")
    protocol: str = setting(
        "full",
        f"rank among the whole split, or the mean over COCO's {FOLDS} folds of {FOLD_IMAGES} images, in file order",
        choices=("full", "coco-1k"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width is not None and self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")
        if not self.image_prompt.strip():
            raise ValueError("image_prompt must not be blank; a decoder reads an image beside words")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")

    def examples(self, split: Literal["train", "val", "test"], root: Path, *, limit: int | None) -> list[Example]:
        """For train every pair of an image and one of its captions, with id `image#number` from 0.

        For val and test what is ranked: every image, then every caption (`image#number`, without a picture).

        Args:
            split: of the data set.
            root: see `read_captions`.
            limit: a fixed subset of so many images.

        Raises:
            DataError: see `read_captions`; or the split does not have the images of the protocol.
            ValueError: a limit below 1.
        """
        images = self._read(split, root, limit=limit)
        if split != "train" and self.protocol == "coco-1k" and len(images) != FOLDS * FOLD_IMAGES:
            raise DataError(
                f"{root}: protocol coco-1k needs {FOLDS * FOLD_IMAGES} images of {split}, there are {len(images)}; "
                "use --set retrieval.protocol=full, or other data without --eval-limit"
            )
        items = training_pairs(images) if split == "train" else ranked_items(images)
        check_unique([item.id for item in items], str(root))
        return list(items)

    def head(self, model: Model) -> nn.Module:
        """New heads and scale; or, frozen, those of the checkpoint where the model has them (`native_head`)."""
        if model.native_head is not None:
            return Heads.native(model.native_head)
        return Heads(model.embed_width, self.width or model.contrast_width, temperature=self.temperature)

    def texts(self, examples: Sequence[Example], *, train: bool) -> list[tuple[str, str]]:
        """The caption, or of an image to be ranked the image prompt; answers are empty."""
        return [(self._text(item, train=train), "") for item in _items(examples)]

    def _text(self, item: Item, *, train: bool) -> str:
        return " ".join(item.captions[0].split()) if train or item.image is None else self.image_prompt

    def batch(self, model: Model, examples: Sequence[Example], *, train: bool) -> Any:
        """`Pairs` for training; for evaluation what the model encodes of images and captions in one batch.

        Raises:
            DataError: a picture is missing or broken.
        """
        items, texts = _items(examples), [text for text, _ in self.texts(examples, train=train)]
        if not train:
            return model.encode(texts, answers=None, images=self._batch_images(items, model))
        return Pairs(
            model.encode([self.image_prompt] * len(items), answers=None, images=self._training_images(items, model)),
            model.encode(texts, answers=None, images=[None] * len(items)),
            tuple(item.image_id for item in items),
        )

    def loss(self, model: Model, batch: Pairs) -> Tensor:
        """InfoNCE over the batch, in float32 at least.

        Raises:
            ValueError: a single pair, which has nothing to be told apart from.
        """
        heads, image_ids = _heads(model), model.gather_names(batch.image_ids)
        if len(image_ids) < 2:
            raise ValueError("a batch of one pair has no negatives to learn from; raise train.batch_size")
        images = model.gather_rows(heads.images(model.embed(batch.images)))
        texts = model.gather_rows(heads.texts(model.embed(batch.texts)))
        ignored = None
        if not self.same_image_negatives:
            numbers = {image_id: number for number, image_id in enumerate(image_ids)}
            shown = torch.tensor([numbers[image_id] for image_id in image_ids], device=images.device)
            ignored = shown[:, None] == shown
        return info_nce(images, texts, heads.logit_scale, ignored=ignored, direction=self.direction)

    def weight(self, batch: Pairs) -> int:
        """Pairs of the batch."""
        return len(batch.image_ids)

    def predict(self, model: Model, batch: Any, examples: Sequence[Example]) -> list[Prediction]:
        """The feature of each image and caption.

        Raises:
            ValueError: a feature is not a number, as after a diverged training.
        """
        heads, items, hidden = _heads(model), _items(examples), model.embed(batch)
        is_image = torch.tensor([item.image is not None for item in items], device=hidden.device)
        vectors = torch.where(is_image[:, None], heads.images(hidden), heads.texts(hidden)).cpu()
        for item, vector in zip(items, vectors, strict=True):
            if not vector.isfinite().all():
                raise ValueError(f"the feature of {item.id!r} is not a number; the training diverged: lower train.lr")
        return [Embedded(item.id, "", vector=vector) for item, vector in zip(items, vectors, strict=True)]

    def conclude(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> list[Prediction]:
        """Ranks instead of features, whatever the order of either.

        Raises:
            ValueError: not exactly one prediction for each example, or an image without captions or the reverse.
        """
        found = _by_id(predictions, examples, Embedded)
        ranks: dict[str, int] = {}
        for group in self._groups(examples):
            result = rank_pairs(
                torch.stack([found[image.id].vector for image in group.images]),
                torch.stack([found[caption.id].vector for caption in group.captions]),
                torch.tensor(group.owner),
            )
            ranks.update(zip((image.id for image in group.images), result.images.tolist(), strict=True))
            ranks.update(zip((caption.id for caption in group.captions), result.captions.tolist(), strict=True))
        return [Ranked(prediction.id, "", rank=ranks[prediction.id]) for prediction in predictions]

    def score(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, Metric]:
        """Recalls, their mean and median ranks, see `score_ranks`.

        Raises:
            ValueError: not exactly one prediction for each example, or a rank outside the candidates.
        """
        found = _by_id(predictions, examples, Ranked)
        return score_ranks(
            [
                Fold([found[item.id].rank for item in group.images], [found[item.id].rank for item in group.captions])
                for group in self._groups(examples)
            ]
        )

    def example_scores(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, ExampleScore]:
        """Of each query its mean hit at 1, 5 and 10, weighted so that both ways count alike in the mean over all.

        A caption is of the group of its image.
        """
        found, groups = _by_id(predictions, examples, Ranked), self._groups(examples)
        if any(min(len(group.images), len(group.captions)) < max(CUTOFFS) for group in groups):
            return {}
        scores: dict[str, ExampleScore] = {}
        for group in groups:
            for queries in (group.images, group.captions):
                weight = len(examples) / (2 * len(groups) * len(queries))
                for query in queries:
                    hits = sum(found[query.id].rank <= k for k in CUTOFFS) / len(CUTOFFS)
                    scores[query.id] = ExampleScore(query.image_id, 100 * hits * weight)
        return scores

    def _groups(self, examples: Sequence[Example]) -> list[Candidates]:
        return candidates(_items(examples), by_fold=self.protocol == "coco-1k")


def _items(examples: Sequence[Example]) -> list[Item]:
    return of_kind(examples, Item, "retrieval ranks images and captions")


def _heads(model: Model) -> Heads:
    """What `Retrieval.head` made.

    Raises:
        ValueError: the model has no such heads.
    """
    if not isinstance(model.head, Heads):
        raise ValueError("retrieval needs its heads on the model: set model.head to what Retrieval.head(model) gives")
    return model.head


def _by_id(predictions: Sequence[Prediction], examples: Sequence[Example], kind: type[P]) -> dict[str, P]:
    """Predictions by id, known to be of one kind and one for each example.

    Raises:
        ValueError: an id is missing, unknown or doubled.
        TypeError: a prediction of another kind.
    """
    check_same_ids([prediction.id for prediction in predictions], [example.id for example in examples])
    found = {prediction.id: prediction for prediction in predictions if isinstance(prediction, kind)}
    if len(found) < len(predictions):
        other = next(prediction for prediction in predictions if not isinstance(prediction, kind))
        raise TypeError(f"expected {kind.__name__} predictions, got {type(other).__name__} for {other.id!r}")
    return found
