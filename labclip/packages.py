"""Packages that not everybody has installed, and the files that labclip's own has brought."""

from __future__ import annotations

import os
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from labclip._version import __version__

EVAL = 'pip install "labclip[eval]"'
"""What brings plots and pages."""

PARQUET = "Parquet files need pyarrow", 'pip install "labclip[data]"'
"""Why, and what brings it."""

EMBEDDED = "scenes"
"""The name of the embedded model, of its alignment, and of its folder."""


class MissingPackageError(ModuleNotFoundError, ValueError):
    """A package that an optional part needs is not installed; the message says what to type."""


def require(module: str, why: str, install: str) -> Any:
    """Import a module that may be missing; then MissingPackageError says `why` and the command that brings it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingPackageError(f"{why}. Type: {install}", name=module.partition(".")[0]) from error


def connected_ray() -> Any:
    """Ray, connected to the cluster of RAY_ADDRESS, or else started on this machine."""
    ray = require("ray", "Engine 'ray' needs Ray", 'pip install "labclip[ray]"')
    if not ray.is_initialized():
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False)
    return ray


def versions_of(*packages: str) -> dict[str, str]:
    """Versions of labclip and of packages that are installed, for records of what made a number."""
    return {"labclip": __version__, **{name: metadata.version(name) for name in packages}}


def embedded_folder() -> Path:
    """The folder of the embedded model: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    for folder in (package / "weights" / EMBEDDED, package.parent / "weights" / EMBEDDED):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        "The embedded model is missing from this installation. Type: pip install --force-reinstall labclip"
    )
