from __future__ import annotations

import pytest

from tasks.io.caption_text import blip_caption, continued_caption, published_caption


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A Dog runs .", "a dog runs"),
        ('Two "dogs"; #1 (brown): run!', "two dogs 1 brown run"),
        ("A black-and-white cat, asleep\n", "a black-and-white cat, asleep"),
        ("...", ""),
    ],
)
def test_training_captions_as_in_blip(caption: str, expected: str) -> None:
    assert blip_caption(caption) == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (" a picture of a cat on a mat", "a cat on a mat"),
        (" a picture of a cat\na picture of a dog", "a cat"),
        (" a picture of a dog with a picture of a cat", "a dog with a picture of a cat"),
        (" a cat\nand more", "a cat"),
        ("a picture of", "a picture of"),
        ("", ""),
    ],
)
def test_published_clean_up(output: str, expected: str) -> None:
    assert published_caption(output) == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (" a cat on a mat. ", "a cat on a mat."),
        (" a man with a picture of a dog", "a man with a picture of a dog"),
        (" a picture of a dog", "a dog"),
        (" a picture offering", "a picture offering"),
        ("\n\n a cat\n Question:", "a cat"),
        (" a picture of", ""),
        ("  ", ""),
    ],
)
def test_continuations_keep_later_pictures(output: str, expected: str) -> None:
    assert continued_caption(output, "a picture of") == expected
