"""What an error message tells the user to type: a parameter in Python, an option on the command line."""

from __future__ import annotations

from contextvars import ContextVar

ON_COMMAND_LINE: ContextVar[bool] = ContextVar("ON_COMMAND_LINE", default=False)
"""Set by the command line while a command runs."""


def typed(python: str, command: str) -> str:
    """The words for what to type.

    >>> f"Pass {typed('clean=True', '--clean')} to clean both."
    'Pass clean=True to clean both.'
    """
    return command if ON_COMMAND_LINE.get() else python
