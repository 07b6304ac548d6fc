"""The `labclip` command. Results on stdout, progress and errors on stderr; exit code 2 with one line on bad input.

One module a command or two; each imports what it needs when it runs, so that `labclip --help` loads no torch.
"""

from labclip.cli import (  # noqa: F401  (they register)
    app,
    convert,
    demo,
    diagnose,
    embed,
    evaluate,
    fit,
    fold,
    info,
    negatives,
    transform,
)
from labclip.cli.group import main

__all__ = ["main"]
