"""Packages that only an extra brings."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class MissingExtraError(ModuleNotFoundError, ValueError):
    """A package that an optional part needs is not installed; the message says what to type."""


def require(module: str, purpose: str, install: str) -> Any:
    """Import a module that may be missing.

    Args:
        module: Its full name.
        purpose: What needs it, as the subject of a sentence.
        install: The command that brings it.

    Raises:
        MissingExtraError: If it is not installed.
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{purpose} needs {package}. Type: {install}", name=package) from error
