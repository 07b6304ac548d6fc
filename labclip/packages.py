"""Optional packages, with messages that say how to install them, and the embedded model's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from labclip._version import __version__
from labclip.checks import first_line

EVAL = 'pip install "labclip[eval]"'
"""The command that installs what plots and HTML pages need."""

PARQUET = "Parquet files need pyarrow", 'pip install "labclip[data]"'
"""Why pyarrow is needed, and the command that installs it: two arguments of `require`."""

EMBEDDED = "scenes"
"""The name of the embedded model, of its alignment and of its folder."""


class MissingPackageError(ModuleNotFoundError, ValueError):
    """An optional package is not installed; the message says what to type."""


def require(module: str, why: str, install: str) -> Any:
    """Import an optional module; if it is missing, MissingPackageError says `why` it is needed, and `install`."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingPackageError(f"{why}. Type: {install}", name=module.partition(".")[0]) from error


@contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """Open a Parquet file. Errors of pyarrow inside the block become ones that name the file."""
    reader, pa = require("pyarrow.parquet", *PARQUET), require("pyarrow", *PARQUET)
    try:
        with reader.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:  # they do not name the file
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ValueError(f"{path} is not a complete Parquet file ({first_line(error)}).") from error


def parquet_columns(path: Path) -> dict[str, bool]:
    """The columns of a Parquet file. True marks those whose values can be names: text or whole numbers."""
    types = require("pyarrow.types", *PARQUET)
    with open_parquet(path) as file:
        kinds = types.is_string, types.is_large_string, types.is_integer
        return {field.name: any(kind(field.type) for kind in kinds) for field in file.schema_arrow}


def connected_ray() -> Any:
    """The module `ray`, connected to the cluster at RAY_ADDRESS or, without that variable, started on this machine."""
    ray = require("ray", "Engine 'ray' needs Ray", 'pip install "labclip[ray]"')
    if not ray.is_initialized():
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False)
    return ray


def versions_of(*packages: str) -> dict[str, str]:
    """The installed versions of labclip and these packages, saved with results so that they can be reproduced."""
    return {"labclip": __version__, **{name: metadata.version(name) for name in packages}}


def embedded_folder() -> Path:
    """The folder of the embedded model: inside the installed package, or next to the package in a checkout."""
    package = Path(__file__).parent
    for folder in (package / "weights" / EMBEDDED, package.parent / "weights" / EMBEDDED):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        "The embedded model is missing from this installation. Type: pip install --force-reinstall labclip"
    )
