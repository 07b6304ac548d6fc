"""Stored text embeddings into aligned ones: file by file, streamed, resumable. Image embeddings are left untouched.

`formats` copies a file with its embeddings changed, `places` finds files and opens them, `run` is the state on disk,
`transforming` puts them together. How one embedding is aligned is `labclip.alignment`'s.
"""

from labclip.stored.transforming import transform

__all__ = ["transform"]
