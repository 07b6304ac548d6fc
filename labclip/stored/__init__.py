"""Align stored text embeddings, file by file, streamed and resumable. Image embeddings are not changed.

`formats` copies one file with its embeddings aligned; `transforming` finds the files, and records which are done.
"""

from labclip.stored.transforming import transform

__all__ = ["transform"]
