"""The mini world's captioned pictures, for `coco_caption`."""

from .pairs import DEFAULT_SIZES, ensure, write

__all__ = ["DEFAULT_SIZES", "ensure", "write"]
