"""Packages that not everybody has installed."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import Any

from labclip._version import __version__

EVAL = 'pip install "labclip[eval]"'
"""What brings plots, probes and pages."""


class MissingPackageError(ModuleNotFoundError, ValueError):
    """A package that an optional part needs is not installed; the message says what to type."""


def require(module: str, why: str, install: str) -> Any:
    """Import a module that may be missing.

    Args:
        module: Its full name.
        why: What needs it, for example "Shuffling needs HanTa".
        install: The command that brings it.

    Raises:
        MissingPackageError: If it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingPackageError(f"{why}. Type: {install}", name=module.partition(".")[0]) from error


def versions_of(*packages: str) -> dict[str, str]:
    """Versions of labclip and of packages that are installed, for records of what made a number."""
    return {"labclip": __version__, **{name: metadata.version(name) for name in packages}}
