"""The `labclip` command. Results on stdout, progress and errors on stderr; exit code 2 with one line on bad input.

Each command imports what it needs when it runs, so that `labclip --help` loads no torch.
"""

from labclip.cli import apply, demo, embed, evaluate, fit  # noqa: F401  (they register)
from labclip.cli.group import main

__all__ = ["main"]
