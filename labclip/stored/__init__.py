"""Stored text embeddings into aligned ones: file by file, streamed, resumable. Image embeddings are left untouched.

`formats` copies a file with its embeddings changed, `transforming` finds the files and does them.
"""

from labclip.stored.transforming import transform

__all__ = ["transform"]
