"""Captions, their images and negatives in people's files: one reader, writers, image files."""

from labclip.data.columns import Columns
from labclip.data.images import ImageSource
from labclip.data.items import BadRow, Item, read_items
from labclip.data.rows import find_inputs

__all__ = ["BadRow", "Columns", "ImageSource", "Item", "find_inputs", "read_items"]
