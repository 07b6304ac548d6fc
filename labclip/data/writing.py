"""Files with columns added or replaced: csv, tsv, jsonl and Parquet, written as they are read, some rows at a time."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labclip.data.images import ImageSource
from labclip.data.parquet import open_parquet
from labclip.data.rows import Row, read_rows
from labclip.packages import PARQUET, require

WRITABLE = (".tsv", ".csv", ".jsonl", ".parquet")

New = Mapping[str, Sequence[Any]]
"""Columns by name, each with a value a row of the table: texts, None, or lists of texts."""

_ROW_GROUP = 65_536  # rows, as most Parquet writers choose
_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode


def write_with_columns(path: Path, out: Path, new: New) -> None:
    """Create `out`, of an ending in `WRITABLE`, with the rows of a table and columns added or replaced.

    Raises:
        ValueError: If rows differ in their columns or types, which only jsonl can hold.
    """
    if out.suffix.lower() == ".parquet":
        _write_parquet(path, out, new)
        return
    with out.open("w", newline="", encoding="utf-8") as file:
        rows = _rows(path, new)
        if out.suffix.lower() == ".jsonl":
            file.writelines(_encode(cells) + "\n" for _, cells in rows)
            return
        first = next(rows)
        delimiter = "\t" if out.suffix.lower() == ".tsv" else ","
        table = csv.DictWriter(file, list(first[1]), delimiter=delimiter, lineterminator="\n")
        table.writeheader()
        for location, cells in itertools.chain([first], rows):
            _check(location, cells, first[1])
            table.writerow(
                {name: _encode(cell) if isinstance(cell, list | dict) else cell for name, cell in cells.items()}
            )


def _rows(path: Path, new: New) -> Iterator[Row]:
    """The rows of a table, new columns among their cells."""
    added: set[str] | None = None
    for number, (location, cells) in enumerate(read_rows(path)):
        added = new.keys() - cells.keys() if added is None else added
        if clash := added & cells.keys():
            raise ValueError(f"{location} has a column {min(clash)!r} already. Rename it, or start without it.")
        if held := [name for name, cell in cells.items() if isinstance(cell, ImageSource)]:
            raise ValueError(f"{location} holds bytes in {held[0]!r}, as only Parquet can. Write OUT as .parquet.")
        yield location, cells | {name: column[number] for name, column in new.items()}


def _check(location: str, cells: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    if strange := cells.keys() - first.keys():
        raise ValueError(
            f"{location} has a column {min(strange)!r} that the first row lacks. Write OUT as .jsonl, whose rows may "
            f"differ."
        )


def _write_parquet(path: Path, out: Path, new: New) -> None:
    """Columns that come from a Parquet file keep their exact types."""
    parquet = require("pyarrow.parquet", *PARQUET)
    writer = None
    for table in _tables(path, new):
        writer = writer or parquet.ParquetWriter(out, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


def _tables(path: Path, new: New) -> Iterator[Any]:
    """A table with the new columns, a group of rows at a time."""
    pa = require("pyarrow", *PARQUET)
    if path.suffix.lower() == ".parquet":
        with open_parquet(path) as file:
            start = 0
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                stop = start + table.num_rows
                for name, column in new.items():
                    index = table.schema.get_field_index(name)
                    kind = table.schema.types[index] if index >= 0 else _kind(pa, column)
                    values = pa.array(column[start:stop], kind)
                    table = table.set_column(index, name, values) if index >= 0 else table.append_column(name, values)
                yield table
                start = stop
        return
    rows, schema = _rows(path, new), None
    while batch := list(itertools.islice(rows, _ROW_GROUP)):
        first = batch[0][1] if schema is None else dict.fromkeys(schema.names)
        for location, cells in batch:
            _check(location, cells, first)
        try:
            table = pa.Table.from_pylist([cells for _, cells in batch], schema)
        except pa.ArrowException as error:
            raise ValueError(
                f"From {batch[0][0]} on, rows have other types: {error}. Write OUT as .jsonl, whose rows may differ."
            ) from error
        if schema is None:
            for name, column in new.items():
                index = table.schema.get_field_index(name)
                table = table.set_column(index, name, table[name].cast(_kind(pa, column)))
            schema = table.schema
        yield table


def _kind(pa: Any, column: Sequence[Any]) -> Any:
    """The type of a new column: text, or lists of texts."""
    return pa.list_(pa.string()) if column and isinstance(column[0], list) else pa.string()
