"""Images and captions to a folder of embeddings: streamed, resumable after a kill, memory-mapped.

Reading of what people have (csv, json, tar, Parquet), decoding, encoding and the folder's format live here; what is
done with embeddings (fitting, evaluation) does not.
"""

from labclip.features.embedding import embed
from labclip.features.features import Features
from labclip.features.folder import load

__all__ = ["Features", "embed", "load"]
