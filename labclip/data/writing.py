"""Files with columns added or replaced: csv, tsv, jsonl and Parquet, written as they are read, some rows at a time."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labclip.data.parquet import open_parquet
from labclip.data.rows import BATCH, Row, Wanted, reader_of
from labclip.packages import PARQUET, require

WRITABLE = (".tsv", ".csv", ".jsonl", ".parquet")

Fill = Callable[[Sequence[Row]], Mapping[str, Sequence[str | None]]]
"""From rows that follow one another to columns for them; of a Parquet file the rows have only the `wanted` cells."""

_encode = json.JSONEncoder(ensure_ascii=False).encode
_ROW_GROUP = 65_536  # rows, as most Parquet writers choose
_ROW_GROUP_BYTES = 128 << 20  # where rows hold images
_JSONL = "Write OUT as .jsonl, whose rows may differ."


def copy_table(path: Path, out: Path, columns: Sequence[str], wanted: Wanted, fill: Fill) -> None:
    """Create `out`, of an ending in `WRITABLE`, with the rows of a table and the columns that `fill` makes.

    Args:
        path: The table.
        out: The file to create.
        columns: All columns of `out`.
        wanted: Which columns `fill` looks at.
        fill: Makes columns; one that the rows have too is replaced.

    Raises:
        ValueError: If rows differ in their columns or types, which only jsonl can hold.
    """
    if out.suffix.lower() == ".parquet":
        _write_parquet(path, out, columns, wanted, fill)
        return
    with out.open("x", newline="", encoding="utf-8") as file:
        table = None
        if out.suffix.lower() != ".jsonl":
            table = csv.DictWriter(
                file, columns, delimiter="\t" if out.suffix.lower() == ".tsv" else ",", lineterminator="\n"
            )
            table.writeheader()
        for rows, arrow in _batches(path, wanted):
            made = fill(rows)
            whole = rows if arrow is None else zip((where for where, _ in rows), arrow.to_pylist(), strict=True)
            for number, (where, cells) in enumerate(whole):
                assert isinstance(cells, dict)
                cells = {**cells, **{name: column[number] for name, column in made.items()}}
                if table is None:
                    file.write(_encode(cells) + "\n")
                else:
                    _check(where, cells, columns)
                    table.writerow({name: _cell(value) for name, value in cells.items()})


def _batches(path: Path, wanted: Wanted) -> Iterator[tuple[Sequence[Row], Any]]:
    """Rows that follow one another; of a Parquet file with the record batch that they come from, with every column."""
    if path.suffix.lower() != ".parquet":
        rows = reader_of(path)(path, wanted)
        while batch := list(itertools.islice(rows, BATCH)):
            yield batch, None
        return
    number = itertools.count(1)
    with open_parquet(path) as file:
        names = list(filter(wanted, file.schema_arrow.names))
        for arrow in file.iter_batches(BATCH):
            yield [(f"row {next(number)}", cells) for cells in arrow.select(names).to_pylist()], arrow


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value


def _check(where: str, cells: Any, columns: Sequence[str]) -> None:
    if strange := cells.keys() - set(columns):
        raise ValueError(f"{where.capitalize()} has a column {min(strange)!r} that the first row lacks. {_JSONL}")


def _write_parquet(path: Path, out: Path, columns: Sequence[str], wanted: Wanted, fill: Fill) -> None:
    """Columns that come from a Parquet file keep their exact types."""
    parquet, pa = require("pyarrow.parquet", *PARQUET), require("pyarrow", *PARQUET)
    schema = writer = None
    pending: list[Any] = []
    with out.open("xb") as file:
        for rows, arrow in itertools.chain(_batches(path, wanted), [((), None)]):
            if rows:
                made = fill(rows)
                if arrow is None:
                    for where, cells in rows:
                        _check(where, cells, columns)
                    try:
                        arrow = pa.RecordBatch.from_pylist([cells for _, cells in rows], schema)
                    except pa.ArrowException as error:
                        raise ValueError(f"From {rows[0][0]} on, rows have other types: {error}. {_JSONL}") from error
                    schema = arrow.schema
                for name, values in made.items():
                    index = arrow.schema.get_field_index(name)
                    kept = arrow.schema.field(index) if index >= 0 else pa.field(name, pa.string())
                    column = pa.array(values, kept.type)
                    arrow = arrow.set_column(index, kept, column) if index >= 0 else arrow.append_column(kept, column)
                pending.append(arrow)
            full = sum(map(len, pending)) >= _ROW_GROUP or sum(one.nbytes for one in pending) >= _ROW_GROUP_BYTES
            if pending and (full or not rows):
                table = pa.Table.from_batches(pending)
                writer = writer or parquet.ParquetWriter(file, table.schema)
                writer.write_table(table, row_group_size=_ROW_GROUP)
                pending.clear()
        if writer:
            writer.close()
