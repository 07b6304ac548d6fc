"""Read captions, with their images and negatives, from users' files.

`rows` reads every file format row by row, `items` turns rows into `Item`s, `images` finds and decodes image files, and
`writing` writes tables. Nothing here loads a model.
"""

from labclip.data.images import ImageSource
from labclip.data.items import Item, read_items
from labclip.data.rows import find_inputs

__all__ = ["ImageSource", "Item", "find_inputs", "read_items"]
