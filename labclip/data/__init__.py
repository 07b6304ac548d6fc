"""Captions, their images and negatives in people's files.

`rows` reads files of every kind, `items` makes items of their rows, `writing` writes tables; `images` are image files.
Nothing here loads a model.
"""

from labclip.data.images import ImageSource
from labclip.data.items import Item, read_items
from labclip.data.rows import find_inputs

__all__ = ["ImageSource", "Item", "find_inputs", "read_items"]
