"""Files with columns added or replaced: csv, tsv, jsonl and Parquet."""

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

New = Mapping[str, Sequence[Any]]
"""Columns by name, each with a value a row of the table: texts, None, or lists of texts."""

_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode


def write_with_columns(path: Path, out: Path, new: New) -> None:
    """Create `out`, of an ending in `WRITABLE`, with the rows of a table and columns added or replaced."""
    if out.suffix.lower() == ".parquet":
        _write_parquet(path, out, new)
        return
    with out.open("w", newline="", encoding="utf-8") as file:
        rows = _rows(path, new)
        if out.suffix.lower() == ".jsonl":
            file.writelines(_encode(cells) + "\n" for _, cells in rows)
            return
        table = None
        for cells in _alike(rows):
            if table is None:
                delimiter = "\t" if out.suffix.lower() == ".tsv" else ","
                table = csv.DictWriter(file, list(cells), delimiter=delimiter, lineterminator="\n")
                table.writeheader()
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


def _alike(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """The cells of rows, none with a column that the first lacks."""
    first = None
    for location, cells in rows:
        first = cells if first is None else first
        if strange := cells.keys() - first.keys():
            raise ValueError(
                f"{location} has a column {min(strange)!r} that the first row lacks. Write OUT as .jsonl, whose rows "
                f"may differ."
            )
        yield cells


def _write_parquet(path: Path, out: Path, new: New) -> None:
    """Columns that come from a Parquet file keep their exact types."""
    pa, parquet = require("pyarrow", *PARQUET), require("pyarrow.parquet", *PARQUET)
    start, writer = 0, None
    for table in _tables(pa, path, new):
        stop = start + table.num_rows
        for name, column in new.items():
            index = table.schema.get_field_index(name)
            kind = pa.list_(pa.string()) if isinstance(column[0], list) else pa.string()
            values = pa.array(column[start:stop], table.schema.types[index] if index >= 0 else kind)
            table = table.set_column(index, name, values) if index >= 0 else table.append_column(name, values)
        writer = writer or parquet.ParquetWriter(out, table.schema)
        writer.write_table(table)
        start = stop
    if writer:
        writer.close()


def _tables(pa: Any, path: Path, new: New) -> Iterator[Any]:
    """The rows of a Parquet file, a group of them at a time; those of another file at once."""
    if path.suffix.lower() == ".parquet":
        with open_parquet(path) as file:
            yield from map(file.read_row_group, range(file.num_row_groups))
        return
    rows = list(_alike(_rows(path, new)))
    try:
        table = pa.Table.from_pylist(rows)
    except pa.ArrowException as error:
        raise ValueError(
            f"{path}: rows have other types: {error}. Write OUT as .jsonl, whose rows may differ."
        ) from error
    yield table.drop_columns([name for name in new if pa.types.is_null(table.schema.field(name).type)])
