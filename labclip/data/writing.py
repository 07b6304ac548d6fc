"""Write a copy of a table with columns added or replaced, as csv, tsv, jsonl or Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labclip.data.images import ImageSource
from labclip.data.rows import Row, read_rows
from labclip.packages import PARQUET, open_parquet, require

WRITABLE = (".tsv", ".csv", ".jsonl", ".parquet")

NewColumns = Mapping[str, Sequence[Any]]
"""The added or replaced columns by name, with one value per row: a text, None, or a list of texts."""

_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode


def write_with_columns(path: Path, out: Path, new: NewColumns) -> None:
    """Write the rows of the table `path`, with the new columns, to `out`, whose ending is one of `WRITABLE`."""
    if out.suffix.lower() == ".parquet":
        _write_parquet(path, out, new)
        return
    with out.open("w", newline="", encoding="utf-8") as file:
        rows = _rows(path, new)
        if out.suffix.lower() == ".jsonl":
            file.writelines(_encode(cells) + "\n" for _, cells in rows)
            return
        writer = None
        for cells in _with_same_columns(rows):
            if writer is None:
                delimiter = "\t" if out.suffix.lower() == ".tsv" else ","
                writer = csv.DictWriter(file, list(cells), delimiter=delimiter, lineterminator="\n")
                writer.writeheader()
            writer.writerow(
                {name: _encode(cell) if isinstance(cell, list | dict) else cell for name, cell in cells.items()}
            )


def _rows(path: Path, new: NewColumns) -> Iterator[Row]:
    """The rows of a table with their new cells."""
    added_names: set[str] | None = None  # new columns that the first row, and so the table, does not have yet
    for number, (location, cells) in enumerate(read_rows(path)):
        added_names = new.keys() - cells.keys() if added_names is None else added_names
        if clashing := added_names & cells.keys():
            raise ValueError(f"{location} already has a column {min(clashing)!r}. Rename or remove it.")
        for name, cell in cells.items():
            if isinstance(cell, ImageSource):
                raise ValueError(f"{location} holds an image in {name!r}. Only Parquet can: write OUT as .parquet.")
        yield location, cells | {name: column[number] for name, column in new.items()}


def _with_same_columns(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """The cells of each row; ValueError if a row has a column that the first row lacks."""
    first_cells = None
    for location, cells in rows:
        first_cells = cells if first_cells is None else first_cells
        if extra_names := cells.keys() - first_cells.keys():
            raise ValueError(
                f"{location} has a column {min(extra_names)!r} that the first row lacks. Write OUT as .jsonl, whose "
                f"rows may differ."
            )
        yield cells


def _write_parquet(path: Path, out: Path, new: NewColumns) -> None:
    """Write a Parquet file. Columns that come from a Parquet file keep their exact types."""
    pa, parquet = require("pyarrow", *PARQUET), require("pyarrow.parquet", *PARQUET)
    start, writer = 0, None
    for table in _tables(pa, path, new):
        stop = start + table.num_rows
        for name, column in new.items():
            index = table.schema.get_field_index(name)
            new_type = pa.list_(pa.string()) if isinstance(column[0], list) else pa.string()
            old_type = table.schema.types[index] if index >= 0 else new_type
            # The text that replaces a list of one caption is no list: pyarrow would split it into its characters.
            values = pa.array(column[start:stop], new_type if pa.types.is_nested(old_type) else old_type)
            table = table.set_column(index, name, values) if index >= 0 else table.append_column(name, values)
        writer = writer or parquet.ParquetWriter(out, table.schema)
        writer.write_table(table)
        start = stop
    if writer:
        writer.close()


def _tables(pa: Any, path: Path, new: NewColumns) -> Iterator[Any]:
    """A Parquet file one row group at a time, or any other file as one table, with the types of its new columns."""
    if path.suffix.lower() == ".parquet":
        with open_parquet(path) as file:
            yield from map(file.read_row_group, range(file.num_row_groups))
        return
    rows = list(_with_same_columns(_rows(path, new)))
    try:
        table = pa.Table.from_pylist(rows)
    except pa.ArrowException as error:
        raise ValueError(
            f"{path} has values of different types in one column: {error}. Write OUT as .jsonl, whose rows may differ."
        ) from error
    yield table.drop_columns([name for name in new if pa.types.is_null(table.schema.field(name).type)])
