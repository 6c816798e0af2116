"""Image-text retrieval as on COCO and Flickr: find an image's captions among all, and a caption's image.

Both sides pass through the same model: an image with a short prompt, a caption alone; linear heads map what the model
makes of them into one space, trained by InfoNCE. Source: BEiT-3's retrieval, as used by MultiWay-Adapter. With `rerank`
a second stage orders the first candidates anew, by what the model makes of an image and a caption together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tasks import DataError, Example, ExampleScore, Metric, Model, Prediction, setting
from tasks.io.caption_image import check_unique
from tasks.io.contrast import Heads, hardest_captions, info_nce, matching_loss, same_image
from tasks.io.of_kind import of_kind
from tasks.io.picture_task import CaptionTask
from tasks.io.ranking import rank_pairs
from tasks.io.reranking import rerank_pairs, shortlists
from tasks.io.retrieval_answers import Embedded, Matched, Ranked, by_id, embedded, match_in, matched, vectors
from tasks.io.retrieval_items import (
    FOLD_IMAGES,
    Candidates,
    Item,
    Match,
    candidates,
    match_of,
    ranked_items,
    training_pairs,
)
from tasks.io.retrieval_metrics import CUTOFFS, Fold, score_ranks

FOLDS = 5


@dataclass(frozen=True)
class Pairs:
    """A training batch: what the model encodes of images and of captions, and which image each pair shows.

    What a second stage is trained on: the pairs' own ids, their captions and their pictures as the model takes them.
    """

    images: Any
    texts: Any
    image_ids: tuple[str, ...]
    ids: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    pictures: tuple[Tensor | None, ...] = ()


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
    rerank: int = setting(
        0,
        "so many first candidates of each image and caption are ranked anew by a match score of both together, trained "
        "beside InfoNCE; 0 for none. Each such pair is predicted",
        source="the two stages of ALBEF and BLIP, which take 128 to 256",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width is not None and self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")
        if not self.image_prompt.strip():
            raise ValueError("image_prompt must not be blank; a decoder reads an image beside words")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if self.rerank < 0:
            raise ValueError(f"rerank must be at least 0, got {self.rerank}")
        if self.rerank:
            object.__setattr__(self, "needs", self.needs | {"embed.fused"})

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
        """New heads and scale; or, frozen, those of the checkpoint where the model has them (`native_head`).

        With `rerank` a new one for matches as well, which says nothing before it is trained.
        """
        if model.native_head is not None:
            heads = Heads.native(model.native_head)
        else:
            heads = Heads(model.embed_width, self.width or model.contrast_width, temperature=self.temperature)
        return heads.with_match(model.embed_width) if self.rerank else heads

    def texts(self, examples: Sequence[Example], *, train: bool) -> list[tuple[str, str]]:
        """The caption, or of an image to be ranked alone the image prompt; answers are empty."""
        return [(self._text(item, train=train), "") for item in _items(examples)]

    def _text(self, item: Item, *, train: bool) -> str:
        alone = item.image is not None and not train and not isinstance(item, Match)
        return self.image_prompt if alone else " ".join(item.captions[0].split())

    def batch(self, model: Model, examples: Sequence[Example], *, train: bool) -> Any:
        """`Pairs` for training; for evaluation what the model encodes of images and captions in one batch.

        Raises:
            DataError: a picture is missing or broken.
        """
        items, texts = _items(examples), [text for text, _ in self.texts(examples, train=train)]
        if not train:
            return model.encode(texts, answers=None, images=self._batch_images(items, model))
        images = self._training_images(items, model)
        fused = (tuple(item.id for item in items), tuple(texts), tuple(images)) if self.rerank else ()
        return Pairs(
            model.encode([self.image_prompt] * len(items), answers=None, images=images),
            model.encode(texts, answers=None, images=[None] * len(items)),
            tuple(item.image_id for item in items),
            *fused,
        )

    def loss(self, model: Model, batch: Pairs) -> Tensor:
        """InfoNCE over the batch, in float32 at least; with `rerank`, and the cross-entropy of matches.

        Raises:
            ValueError: a single pair, which has nothing to be told apart from.
        """
        heads, image_ids = _heads(model), model.gather_names(batch.image_ids)
        if len(image_ids) < 2:
            raise ValueError("a batch of one pair has no negatives to learn from; raise train.batch_size")
        images = model.gather_rows(heads.images(model.embed(batch.images)))
        texts = model.gather_rows(heads.texts(model.embed(batch.texts)))
        same = same_image(image_ids, images.device)
        ignored = None if self.same_image_negatives else same
        loss = info_nce(images, texts, heads.logit_scale, ignored=ignored, direction=self.direction)
        if not self.rerank:
            return loss
        return loss + self._matching(model, batch, hardest_captions(images @ texts.T, same))

    def _matching(self, model: Model, batch: Pairs, hardest: Sequence[int | None]) -> Tensor:
        """The loss of matches: each pair, and each image beside the most similar caption of another one.

        `hardest` and the loss are of the whole batch, of which this process may have a share.
        """
        captions = model.gather_names(batch.captions)
        place = {id: number for number, id in enumerate(model.gather_names(batch.ids))}
        # An image that finds no wrong one in the batch is given any, which then does not count.
        wrong = [captions[hardest[place[id]] or 0] for id in batch.ids]
        texts = model.encode([*batch.captions, *wrong], answers=None, images=[*batch.pictures, *batch.pictures])
        own = _heads(model).matches(model.embed(texts)).view(2, -1).T
        right, others = model.gather_rows(own).unbind(dim=1)
        told = torch.tensor([number is not None for number in hardest], device=others.device)
        return matching_loss(right, others[told])

    def weight(self, batch: Pairs) -> int:
        """Pairs of the batch."""
        return len(batch.image_ids)

    def predict(self, model: Model, batch: Any, examples: Sequence[Example]) -> list[Prediction]:
        """The feature of each image and caption, or of a second round how well each image matches its caption.

        Raises:
            ValueError: a feature or match is not a number, as after a diverged training.
        """
        heads, items, hidden = _heads(model), _items(examples), model.embed(batch)
        if all(isinstance(item, Match) for item in items):
            return [matched(item.id, match) for item, match in zip(items, heads.matches(hidden).tolist(), strict=True)]
        is_image = torch.tensor([item.image is not None for item in items], device=hidden.device)
        features = torch.where(is_image[:, None], heads.images(hidden), heads.texts(hidden)).cpu()
        return [embedded(item.id, vector) for item, vector in zip(items, features, strict=True)]

    def follow_up(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> list[Example]:
        """With `rerank` each image beside each caption, where one of them is among the first candidates of the other.

        Raises:
            ValueError: as `conclude`.
        """
        if not self.rerank:
            return []
        found = by_id(predictions, examples, Embedded)
        return [
            match_of(group.images[image], group.captions[caption])
            for group in self._groups(examples)
            for image, caption in shortlists(*vectors(group, found), self.rerank).pairs()
        ]

    def conclude(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> list[Prediction]:
        """Ranks instead of features, whatever the order of either.

        Raises:
            ValueError: not exactly one prediction for each example, or an image without captions or the reverse; with
                `rerank`, a candidate without a match.
        """
        matches = {prediction.id: prediction.match for prediction in predictions if isinstance(prediction, Matched)}
        found = by_id([p for p in predictions if not isinstance(p, Matched)], examples, Embedded)
        ranks: dict[str, int] = {}
        for group in self._groups(examples):
            (images, captions), owner = vectors(group, found), torch.tensor(group.owner)
            result = rank_pairs(images, captions, owner)
            if self.rerank:
                lists = shortlists(images, captions, self.rerank)
                result = rerank_pairs(result, lists, owner, partial(match_in, matches, group))
            ranks.update(zip((image.id for image in group.images), result.images.tolist(), strict=True))
            ranks.update(zip((caption.id for caption in group.captions), result.captions.tolist(), strict=True))
        return [Ranked(id, "", rank=ranks[id]) for id in found]

    def score(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, Metric]:
        """Recalls, their mean and median ranks, see `score_ranks`.

        Raises:
            ValueError: not exactly one prediction for each example, or a rank outside the candidates.
        """
        found = by_id(predictions, examples, Ranked)
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
        found, groups = by_id(predictions, examples, Ranked), self._groups(examples)
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
