"""What image-text retrieval trains on and ranks: pairs, and the images and captions that are candidates together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tasks.io.caption_image import CaptionedImage

FOLD_IMAGES = 1000
"""Images of a fold of COCO's 1K protocol."""


@dataclass(frozen=True)
class Item(CaptionedImage):
    """A training pair (an image and one caption), or what is ranked: an image, or a caption (`image` is None).

    fold: of COCO's 1K protocol, by the place of its image in the file (in the subset, where there is a limit).
    """

    fold: int = 0


@dataclass(frozen=True)
class Match(Item):
    """An image beside a caption that may be another's; how well they match is to be said. `image_id` is the image's."""


@dataclass(frozen=True)
class Candidates:
    """Images and captions that are ranked among each other; `owner` is the place of each caption's image."""

    images: list[Item]
    captions: list[Item]
    owner: list[int]


def training_pairs(images: Sequence[CaptionedImage]) -> list[Item]:
    """Every caption with its image, in order; ids are `image#number` from 0."""
    return [
        Item(f"{image.image_id}#{number}", image.image, (caption,), image.image_id, fold=place // FOLD_IMAGES)
        for place, image in enumerate(images)
        for number, caption in enumerate(image.captions)
    ]


def ranked_items(images: Sequence[CaptionedImage]) -> list[Item]:
    """Every image, then every caption without its image; ids as those of images and of training pairs."""
    whole = [
        Item(image.id, image.image, image.captions, image.image_id, fold=place // FOLD_IMAGES)
        for place, image in enumerate(images)
    ]
    return [*whole, *(replace(pair, image=None) for pair in training_pairs(images))]


def match_id(image: Item, caption: Item) -> str:
    """The id of the two as a `Match`."""
    return f"{image.id}|{caption.id}"


def match_of(image: Item, caption: Item) -> Match:
    """The two beside each other."""
    return Match(match_id(image, caption), image.image, caption.captions, image.image_id, fold=image.fold)


def candidates(items: Sequence[Item], *, by_fold: bool) -> list[Candidates]:
    """The items of each fold, or all of them as one; ordered by id, so that the order of `items` plays no part.

    Raises:
        ValueError: a caption without its image, or an image without captions; names the first.
    """
    folds: dict[int, list[Item]] = {}
    for item in sorted(items, key=lambda item: item.id):
        folds.setdefault(item.fold if by_fold else 0, []).append(item)
    return [_candidates(folds[fold]) for fold in sorted(folds)]


def _candidates(items: Sequence[Item]) -> Candidates:
    images = [item for item in items if item.image is not None]
    captions = [item for item in items if item.image is None]
    place = {image.image_id: number for number, image in enumerate(images)}
    lost = [caption.id for caption in captions if caption.image_id not in place]
    if lost:
        raise ValueError(f"the image of caption {lost[0]!r} is not among the examples ({len(lost)} such captions)")
    bare = sorted(set(place) - {caption.image_id for caption in captions})
    if bare:
        raise ValueError(f"image {bare[0]!r} has no caption among the examples ({len(bare)} such images)")
    return Candidates(images, captions, [place[caption.image_id] for caption in captions])
