"""Captions, their images and negatives in people's files: one reader, writers, image files."""
