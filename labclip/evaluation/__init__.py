"""Benchmarks of binding and of what it costs: reading, encoding once, metrics with intervals, reports.

Fitting lives in `labclip.training`, what the paper's figures show in `labclip.analysis`.
"""

from labclip.evaluation.benchmarks import BENCHMARKS
from labclip.evaluation.evaluate import Where, evaluate
from labclip.evaluation.report import Report

__all__ = ["BENCHMARKS", "Report", "Where", "evaluate"]
