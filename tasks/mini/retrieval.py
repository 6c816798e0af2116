"""The mini world's captioned pictures, for `retrieval`: the same files as `coco_caption`."""

from .pairs import DEFAULT_SIZES, ensure, write

__all__ = ["DEFAULT_SIZES", "ensure", "write"]
