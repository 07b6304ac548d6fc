"""Packages that not everybody has installed, how some are opened, and the files that came with labclip itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from labclip._version import __version__

EVAL = 'pip install "labclip[eval]"'
"""How to install what plots and pages need."""

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


@contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """An open Parquet file; whatever pyarrow finds wrong with it is an error that names it."""
    reader, pa = require("pyarrow.parquet", *PARQUET), require("pyarrow", *PARQUET)
    try:
        with reader.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:  # they do not name the file
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ValueError(f"{path} is not a whole Parquet file ({str(error).splitlines()[0]}).") from error


def parquet_columns(path: Path) -> dict[str, bool]:
    """The columns of a Parquet file, and whether each holds names: text or whole numbers."""
    types = require("pyarrow.types", *PARQUET)
    with open_parquet(path) as file:
        kinds = types.is_string, types.is_large_string, types.is_integer
        return {field.name: any(kind(field.type) for kind in kinds) for field in file.schema_arrow}


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
