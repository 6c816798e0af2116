"""What tasks on pictures share: where the data are, a memory of decoded pictures, and how captions are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

from torch import Tensor

from tasks import DataError, Example, Model, Task, setting
from tasks.io.caption_files import CaptionedImage, read_captions
from tasks.io.pictures import AUGMENTATIONS, NORMS, PictureMemory, Square, augmentation, norm_named


@dataclass(frozen=True, kw_only=True)
class PictureTask(Task):
    """A task whose examples may have pictures."""

    folder: str = setting("", "folder of the data set below --data-root, where that holds several data sets")
    image_norm: str = setting(
        "backbone",
        "constants that normalise pictures; `backbone`: those its vision tower was trained with",
        choices=NORMS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        path = PurePath(self.folder)
        if path.is_absolute() or ".." in path.parts or "\0" in self.folder:
            raise ValueError(f"folder must name a folder below the data root, got {self.folder!r}")

    def home(self, root: Path) -> Path:
        """Where below the data root the data are.

        Raises:
            DataError: there is no such folder.
        """
        if self.folder and not (root / self.folder).is_dir():
            raise DataError(f"{root / self.folder}: no such folder; correct the task's option folder={self.folder}")
        return root / self.folder

    @cached_property
    def _pictures(self) -> PictureMemory:
        return PictureMemory()

    def prepare(self, examples: Sequence[Example], *, image_size: int) -> None:
        """Decode every picture once, before any training; keeps up to 2 GiB of them for the epochs to come.

        Raises:
            DataError: pictures that are missing or broken; the first and how many.
        """
        self._pictures.check((example.image for example in examples), image_size)

    def _batch_images(
        self, examples: Sequence[Example], model: Model, *, square: Square | None = None
    ) -> list[Tensor | None]:
        """The pictures of a batch as the model takes them: squashed to its size, or by `square`, and normalised.

        Raises:
            DataError: a picture is missing or broken.
        """
        paths = [example.image for example in examples]
        return self._pictures.batch(paths, model.image_size, norm_named(self.image_norm, model), square=square)


@dataclass(frozen=True, kw_only=True)
class CaptionTask(PictureTask):
    """A task on images with captions."""

    augment: str = setting(
        "none",
        "training pictures as they are, or cropped to 50-100 % of their area and flipped at random, then RandAugment",
        choices=AUGMENTATIONS,
        source="MultiWay-Adapter's datasets.py; with RandAugment ADEM-VL's util/coco_karpathy_dataset.py",
    )
    holdout: float = setting(
        0.0, "share of images for val and for test where an official COCO folder has one annotation file only"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.holdout < 0.5:
            raise ValueError(f"holdout must be from 0 to below 0.5, got {self.holdout}")

    def _read(self, split: str, root: Path, *, limit: int | None) -> list[CaptionedImage]:
        """As `read_captions`."""
        return read_captions(self.home(root), split, limit=limit, holdout=self.holdout)

    def _training_images(self, examples: Sequence[Example], model: Model) -> list[Tensor | None]:
        """As `_batch_images`, but augmented if the option says so.

        Augmentation draws from Python's own generator, which the training loop seeds: each epoch crops anew, and a seed
        repeats its run.
        """
        return self._batch_images(examples, model, square=augmentation(self.augment))
