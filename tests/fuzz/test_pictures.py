"""Pictures: every format that is read, damaged at random, and headers that claim pictures of 100,000 x 100,000."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from harness.report.browser import thumbnail
from tasks import DataError
from tasks.io.pictures import FORMATS, MOST_PIXELS, read_picture
from tests.fuzz.mutations import damaged
from tests.fuzz.refusals import cases, fuzz

HUGE = (100_000, 100_000)


def picture(format: str) -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, format)
    return file.getvalue()


def reader(folder: Path) -> Callable[[bytes], None]:
    def read(content: bytes) -> None:
        path = folder / "a picture.img"
        path.write_bytes(content)
        small = thumbnail(path)  # never raises
        read_picture(path, 16)
        assert small

    return read


@pytest.mark.parametrize("format", FORMATS)
def test_damaged(format: str, folder: Path) -> None:
    # Formats without checksums show other colours where only these are damaged.
    good, inputs = picture(format), damaged(picture(format), within=48)
    assert fuzz(reader(folder), inputs, good=good, folder=folder, errors=(DataError,), count=cases(80)).mostly_refused


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *, colours: int = 2, more: bytes = b"") -> bytes:
    """A small file that is a picture of this size, as far as its checksums tell; its pixels end early."""
    header = struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(100_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + pixels + chunk(b"IEND", b"")


def gif(width: int, height: int) -> bytes:
    whole = picture("GIF")
    return whole[:6] + struct.pack("<HH", min(width, 65_535), min(height, 65_535)) + whole[10:]


def bmp(width: int, height: int) -> bytes:
    whole = picture("BMP")
    return whole[:18] + struct.pack("<ii", width, height) + whole[26:]


def ppm(width: int, height: int) -> bytes:
    return b"P6 %d %d 255\n" % (width, height) + bytes(1000)


CLAIMS: dict[str, Callable[[int, int], bytes]] = {"png": png, "gif": gif, "bmp": bmp, "ppm": ppm}
SIZES = st.tuples(st.integers(9_500, 100_000), st.integers(9_500, 100_000))


@pytest.mark.parametrize("kind", CLAIMS)
def test_huge_claims(kind: str, folder: Path) -> None:
    inputs, good = SIZES.map(lambda size: CLAIMS[kind](*size)), CLAIMS[kind](16, 16)
    assert not fuzz(reader(folder), inputs, good=good, folder=folder, errors=(DataError,), count=50).read
    with pytest.raises(DataError, match=r"65,535 x 65,535|100,000 x 100,000|exceeds limit"):
        reader(folder)(CLAIMS[kind](*HUGE))


def test_the_largest_picture_takes_less_than_a_gigabyte(folder: Path) -> None:
    whole = io.BytesIO()
    Image.new("RGB", (9_000, MOST_PIXELS // 9_000)).save(whole, "PNG", compress_level=1)
    assert fuzz(reader(folder), st.just(whole.getvalue()), good=picture("PNG"), folder=folder, count=1).read == 1


def test_texts_that_unpack_to_gigabytes(folder: Path) -> None:
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000)))
    inputs = st.integers(1, 50).map(lambda n: png(n, n, more=text * n))
    assert not fuzz(reader(folder), inputs, good=png(16, 16), folder=folder, count=5).read


def test_what_would_run_other_programs_is_no_picture(folder: Path) -> None:
    (folder / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n")
    with pytest.raises(DataError, match="not a picture in BMP, GIF, JPEG"):
        read_picture(folder / "x.png", 16)
