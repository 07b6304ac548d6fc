"""Benchmarks of binding and of what it costs: reading, encoding once, metrics with intervals, reports.

A benchmark of one's own is a `Benchmark` whose reader fills `Items`; docs/benchmarks.md shows one. Fitting lives in
`labclip.training`, what the paper's figures show in `labclip.analysis`.
"""

from labclip.evaluation.benchmarks import BENCHMARKS
from labclip.evaluation.evaluate import evaluate
from labclip.evaluation.questions import Choice, Classification, Pairs, Question, Retrieval, Search, TwoPositives
from labclip.evaluation.report import Report
from labclip.evaluation.results import Answer, Result
from labclip.evaluation.scores import ScoredItems
from labclip.evaluation.sources import Benchmark, Items, Sources
from labclip.evaluation.tasks import Task

__all__ = [
    "BENCHMARKS", "Answer", "Benchmark", "Choice", "Classification", "Items", "Pairs", "Question", "Report", "Result",
    "Retrieval", "ScoredItems", "Search", "Sources", "Task", "TwoPositives", "evaluate",
]  # fmt: skip
