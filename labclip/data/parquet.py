"""Parquet files, whose errors name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labclip.packages import PARQUET, require


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
