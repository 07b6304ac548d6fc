"""Captions, their images and negatives in people's files.

`rows` reads files of every kind, `columns` says what a row holds, `items` makes items of them, `writing` writes tables;
`images` are image files, `located` and `scene_files` the files of data sets. Nothing here loads a model.
"""

from labclip.data.columns import Columns
from labclip.data.images import ImageSource
from labclip.data.items import Item, read_items
from labclip.data.rows import find_inputs

__all__ = ["Columns", "ImageSource", "Item", "find_inputs", "read_items"]
