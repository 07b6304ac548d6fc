"""What the paper's figures show, measured on embeddings and labels, and the diagnosis made of it.

Benchmarks live in `labclip.evaluation`, fitting in `labclip.training`.
"""
