"""Encode images and captions with a base, cache the embeddings, and hold them as `Features` in memory or a folder.

`labclip.data` reads the images and captions. Fitting and evaluation use the embeddings.
"""

from labclip.features.embedding import embed
from labclip.features.features import Features

__all__ = ["Features", "embed"]
