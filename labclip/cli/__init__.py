"""The `labclip` command. Results go to stdout, progress and errors to stderr. Bad input exits with code 2 and one line.

Commands import what they need when they run, so that `labclip --help` does not load torch.
"""

from labclip.cli import apply, demo, embed, evaluate, fit  # noqa: F401  (they register)
from labclip.cli.group import main

__all__ = ["main"]
