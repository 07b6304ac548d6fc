"""Numbers that people pass, checked, and what messages say of a value. Needs no torch."""

from __future__ import annotations

import math
import operator
import reprlib
from typing import Any


def checked_number(name: str, value: Any) -> float:
    """A finite number."""
    try:
        number = math.nan if isinstance(value, str | bool) else float(getattr(value, "detach", lambda: value)())
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} is {reprlib.repr(value)}. Pass a finite number.")
    return number


def checked_whole(name: str, value: Any, *, least: int = 0, most: int = 2**63 - 1) -> int:
    """A whole number, also NumPy's, from `least` to `most`."""
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if not least <= number <= most:
        wanted = f"of at least {least}" if most == 2**63 - 1 else f"from {least} to {most:,}"
        raise ValueError(f"{name} is {reprlib.repr(value)}. Pass a whole number {wanted}.")
    return number


def described(value: Any) -> str:
    """What a value is, by type, and by dtype and shape where it has them."""
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {described(value[0]) if value else 'nothing'}"
    array = f" of {value.dtype} {list(value.shape)}" if hasattr(value, "dtype") and hasattr(value, "shape") else ""
    return f"a {type(value).__name__}{array}"


def first_line(error: BaseException) -> str:
    """What an error says, without the lines that follow."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def check_device(device: Any) -> None:
    """Refuse with ValueError a device that can't hold a model, before anything is fetched for it."""
    import torch

    try:
        (made,) = torch.nn.ParameterList([torch.empty(0, device=device)])  # which accelerate.init_empty_weights sees
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device {str(device)!r} can't be used ({first_line(error)}). Pass 'cpu'.") from error
    if made.is_meta:
        raise ValueError("On the meta device there are no weights to load. Load the model on another, or wrap one.")
