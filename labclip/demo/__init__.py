"""The demo: the failure and the fix on the embedded model, in numbers, examples and a figure.

Its figures are those of `labclip.evaluate("scenes", "scenes")` and of the probes of `labclip.analysis`.
"""

from labclip.demo.figure import draw
from labclip.demo.finding import Demo, run

__all__ = ["Demo", "draw", "run"]
