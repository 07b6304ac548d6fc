"""Images and captions to a folder of embeddings: streamed, resumable after a kill, memory-mapped.

`embed`, `Features` and the folder's format live here; reading of tables is in `labclip.data`, encoding in
`labclip.encode`, and what is done with embeddings (fitting, evaluation) after it.
"""

from labclip.features.embedding import embed
from labclip.features.features import Features

__all__ = ["Features", "embed"]
