"""The demo: the failure of the base and its repair, on the embedded model, in numbers, examples and a figure.

The numbers are those of `labclip.evaluate("scenes", "scenes")` and of the probes of `labclip.analysis`.
"""

from labclip.demo.figure import draw
from labclip.demo.finding import Demo, run

__all__ = ["Demo", "draw", "run"]
