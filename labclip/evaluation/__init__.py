"""Benchmarks of binding and of what it costs: reading, encoding once, metrics with intervals, reports.

Fitting lives in `labclip.training`, what the paper's figures show in `labclip.analysis`.
"""
