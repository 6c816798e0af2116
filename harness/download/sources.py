"""Where data sets come from: addresses, sizes, checksums, and what is given out on request only.

A checksum stands here where several who use the file publish the same one. Where nobody does it is absent; the file is
then held against what the data itself says. The addresses are those that the data sets' own pages name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

MEGABYTE, GIGABYTE = 10**6, 10**9


@dataclass(frozen=True, kw_only=True)
class Unpack:
    """Which members of an archive are taken, and where below the data folder they go.

    Attributes:
        member: how the names of the members begin that are taken; the rest of the name is kept.
        to: what replaces that beginning.
        suffix: how they end.
        flat: keep the last part of a name only.
        most_files, most_bytes: an archive that holds more, taken or not, is refused unread.
    """

    member: str
    to: str
    suffix: str = ""
    flat: bool = False
    most_files: int = 100_000
    most_bytes: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of an official address.

    Attributes:
        url: its address; the last part is its name in the data folder.
        size_bytes: its published size, None where nobody publishes it.
        digest: its published checksum, as `md5:...` or `sha256:...`.
        most_bytes: more is refused where no size is known, from a server and of a file that lies there already.
        unpack: set for an archive, which is deleted once its members are there.
    """

    url: str
    size_bytes: int | None = None
    digest: str | None = None
    most_bytes: int = GIGABYTE
    unpack: Unpack | None = None

    @property
    def name(self) -> str:
        """The file's name."""
        return PurePosixPath(urlsplit(self.url).path).name


@dataclass(frozen=True, kw_only=True)
class OnRequest:
    """Pictures that their owners give out to those who ask: where to ask, and what then arrives."""

    form: str
    archive: str
    unpack: Unpack


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set, the tasks that read it, and the terms that it comes under."""

    name: str
    tasks: tuple[str, ...]
    terms: str
    sources: tuple[Source, ...]
    on_request: OnRequest | None = None


# github.com/lupantech/ScienceQA: data/ and tools/download.sh.
_SCIENCEQA_TEXTS = "https://raw.githubusercontent.com/lupantech/ScienceQA/main/data"
_SCIENCEQA_PICTURES = "https://scienceqa.s3.us-west-1.amazonaws.com/images"
# The bucket of images.cocodataset.org, by the name for which Amazon has a certificate.
_COCO = "https://s3.amazonaws.com/images.cocodataset.org/zips"
_CAPTION_TASKS = ("coco_caption", "retrieval")


def _science_text(place: str) -> Source:
    """Read whole when it is checked, so that no more is taken than fits into memory; the official ones are smaller."""
    return Source(url=f"{_SCIENCEQA_TEXTS}/{place}", most_bytes=100 * MEGABYTE)


def _science_pictures(split: str) -> Source:
    return Source(
        url=f"{_SCIENCEQA_PICTURES}/{split}.zip",
        most_bytes=4 * GIGABYTE,
        unpack=Unpack(member=f"{split}/", to=f"images/{split}", most_bytes=4 * GIGABYTE),
    )


def _karpathy(name: str) -> Source:
    """The splits of Karpathy and Fei-Fei (2015), which come in one archive for all three data sets."""
    return Source(
        url="https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
        size_bytes=36_745_453,
        digest="sha256:4cfd70132527b80933105e5829dc9034eaab9573482e2e680abbab6130244817",
        unpack=Unpack(member=f"dataset_{name}.json", to=f"dataset_{name}.json", most_files=20, most_bytes=GIGABYTE),
    )


def _flickr(name: str, *, form: str, archive: str) -> DataSet:
    return DataSet(
        name=name,
        tasks=_CAPTION_TASKS,
        terms="research and education only; the pictures belong to their Flickr owners",
        sources=(_karpathy(name),),
        on_request=OnRequest(
            form=form,
            archive=archive,
            unpack=Unpack(member="", to="images", suffix=".jpg", flat=True, most_bytes=16 * GIGABYTE),
        ),
    )


_ALL = (
    DataSet(
        name="scienceqa",
        tasks=("scienceqa",),
        terms="CC BY-NC-SA 4.0",
        sources=(
            _science_text("scienceqa/problems.json"),
            _science_text("scienceqa/pid_splits.json"),
            _science_text("captions.json"),
            *(_science_pictures(split) for split in ("train", "val", "test")),
        ),
    ),
    DataSet(
        name="coco",
        tasks=_CAPTION_TASKS,
        terms="captions CC BY 4.0; the pictures under the Flickr terms of use",
        sources=(
            _karpathy("coco"),
            Source(
                url=f"{_COCO}/train2014.zip",
                size_bytes=13_510_573_713,
                digest="md5:0da8c0bd3d6becc4dcb32757491aca88",
                unpack=Unpack(member="train2014/", to="train2014", most_bytes=16 * GIGABYTE),
            ),
            Source(
                url=f"{_COCO}/val2014.zip",
                size_bytes=6_645_013_297,
                digest="md5:a3d79f5ed8d289b7a7554ce06a5782b3",
                unpack=Unpack(member="val2014/", to="val2014", most_bytes=8 * GIGABYTE),
            ),
        ),
    ),
    # http://shannon.cs.illinois.edu/DenotationGraph names this form.
    _flickr("flickr30k", form="https://forms.illinois.edu/sec/229675", archive="flickr30k-images.tar.gz"),
    # The pictures' former address at nlp.cs.illinois.edu is gone; this form took its place.
    _flickr("flickr8k", form="https://forms.illinois.edu/sec/1713398", archive="Flickr8k_Dataset.zip"),
)

DATA_SETS = {data_set.name: data_set for data_set in _ALL}
"""Every data set that `data download` knows."""
