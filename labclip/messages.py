"""Words of messages: the known name nearest to one that is not known, and how text of others is printed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

NOTE = 25
"""The level of what the command line says on stderr unless told to be quiet: more than INFO, less than a warning."""

# What a terminal obeys, and what makes a line read in another order.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def nearest(name: str, names: Iterable[str]) -> str:
    """The sentence " Did you mean 'ViT-B-32'?", of the nearest of some names; empty where none is near."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f" Did you mean {near[0]!r}?" if near else ""


def printable(text: str) -> str:
    r"""A text in which control characters, and halves of characters, are written as escapes; lines and tabs stay.

    File names and metadata hold whatever their author liked.

    >>> printable("\x1b[31mred.png")
    '\\x1b[31mred.png'
    """
    whole = text.encode("utf-8", "backslashreplace").decode()
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), whole)
