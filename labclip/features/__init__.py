"""Images and captions through a base: encoded, cached, and as `Features` in memory or in a folder.

Where they come from is in `labclip.data`; what is done with embeddings (fitting, evaluation) comes after.
"""

from labclip.features.embedding import embed
from labclip.features.features import Features

__all__ = ["Features", "embed"]
