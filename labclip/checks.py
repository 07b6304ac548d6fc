"""Checks of arguments, and helpers that put values into messages. Needs no torch."""

from __future__ import annotations

import difflib
import math
import operator
import re
import reprlib
from collections.abc import Collection, Iterable
from typing import Any

NOTE = 25
"""The log level of what the command line prints to stderr without --quiet: above INFO, below WARNING."""

# Control characters that a terminal obeys, and those that change the reading direction of a line.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def checked_number(name: str, value: Any) -> float:
    """Return `value` as a float; ValueError if it is not a finite number."""
    try:
        number = math.nan if isinstance(value, str | bool) else float(getattr(value, "detach", lambda: value)())
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} is {reprlib.repr(value)}. Pass a finite number.")
    return number


def checked_integer(name: str, value: Any, *, least: int = 0, most: int = 2**63 - 1) -> int:
    """Return `value`, a Python or NumPy integer, as an int; ValueError if it is not between `least` and `most`."""
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if not least <= number <= most:
        wanted = f"of at least {least}" if most == 2**63 - 1 else f"from {least} to {most:,}"
        raise ValueError(f"{name} is {reprlib.repr(value)}. Pass a whole number {wanted}.")
    return number


def check_choice(name: str, value: Any, allowed: Collection[str]) -> None:
    """Raise ValueError if a value is not one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}. Pass one of {', '.join(allowed)}.")


def describe(value: Any) -> str:
    """Name the type of a value, and its dtype and shape if it has them."""
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {describe(value[0]) if value else 'nothing'}"
    array = f" of {value.dtype} {list(value.shape)}" if hasattr(value, "dtype") and hasattr(value, "shape") else ""
    return f"a {type(value).__name__}{array}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def check_device(device: Any) -> None:
    """Raise ValueError if torch can't use a device, so that nothing is downloaded for it first."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device {str(device)!r} can't be used ({first_line(error)}). Pass 'cpu'.") from error


def suggestion(name: str, names: Iterable[str]) -> str:
    """The sentence " Did you mean 'ViT-B-32'?" with the most similar of `names`; empty if none is similar."""
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def printable(text: str) -> str:
    r"""Escape control characters and lone surrogates, which file names and metadata may hold; newlines and tabs stay.

    >>> printable("\x1b[31mred.png")
    '\\x1b[31mred.png'
    """
    encodable = text.encode("utf-8", "backslashreplace").decode()
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), encodable)
