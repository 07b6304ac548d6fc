"""Files with columns added: csv, tsv, jsonl and Parquet, written in batches of rows as they are read."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labclip.data.rows import BATCH, Row, Wanted, open_parquet, reader_of
from labclip.packages import PARQUET, require

_encode = json.JSONEncoder(ensure_ascii=False).encode
_ROW_GROUP = 65_536  # rows, as most Parquet writers choose
_ROW_GROUP_BYTES = 128 << 20  # where rows hold images


@dataclass
class RowBatch:
    """Some rows that follow one another, and what is to be written beside or instead of their cells."""

    rows: Sequence[Row]  # of a Parquet file only the columns asked for
    arrow: Any = None  # the Parquet record batch they come from, with every column
    replaced: dict[str, list[Any]] = field(default_factory=dict)
    added: dict[str, list[str | None]] = field(default_factory=dict)

    def cells(self) -> Iterator[dict[str, Any]]:
        """The rows as they are to be written."""
        new = {**self.replaced, **self.added}
        whole = [row.cells for row in self.rows] if self.arrow is None else self.arrow.to_pylist()
        for index, cells in enumerate(whole):
            yield {**cells, **{name: column[index] for name, column in new.items()}}


def read_batches(path: Path, wanted: Wanted) -> Iterator[RowBatch]:
    """The rows of a file in batches; the columns of a Parquet file that are not `wanted` are in `arrow` alone."""
    if path.suffix.lower() != ".parquet":
        rows = reader_of(path)(path, wanted)
        while batch := list(itertools.islice(rows, BATCH)):
            yield RowBatch(batch)
        return
    number = itertools.count(1)
    with open_parquet(path) as file:
        names = list(filter(wanted, file.schema_arrow.names))
        for arrow in file.iter_batches(BATCH):
            cells = arrow.select(names).to_pylist()
            yield RowBatch([Row(n, f"row {n}", one) for one, n in zip(cells, number, strict=False)], arrow)


def _write_separated(delimiter: str) -> _Writer:
    def write(path: Path, columns: Sequence[str], added: Sequence[str], batches: Iterable[RowBatch]) -> None:
        with path.open("x", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*columns, *added], delimiter=delimiter, lineterminator="\n")
            writer.writeheader()
            for batch in batches:
                _check_columns(batch, columns)
                writer.writerows({name: _cell(value) for name, value in cells.items()} for cells in batch.cells())

    return write


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value


def _write_jsonl(path: Path, columns: Sequence[str], added: Sequence[str], batches: Iterable[RowBatch]) -> None:
    with path.open("x", newline="", encoding="utf-8") as file:
        for batch in batches:
            file.writelines(_encode(cells) + "\n" for cells in batch.cells())


def _write_parquet(path: Path, columns: Sequence[str], added: Sequence[str], batches: Iterable[RowBatch]) -> None:
    """Columns that come from a Parquet file keep their exact types."""
    parquet, pa = require("pyarrow.parquet", *PARQUET), require("pyarrow", *PARQUET)
    schema = writer = None
    pending: list[Any] = []

    def flush() -> None:
        nonlocal writer
        if pending:
            table = pa.Table.from_batches(pending)
            writer = writer or parquet.ParquetWriter(file, table.schema)
            writer.write_table(table, row_group_size=_ROW_GROUP)
            pending.clear()

    with path.open("xb") as file:
        for batch in batches:
            arrow = batch.arrow
            if arrow is None:
                _check_columns(batch, columns)
                try:
                    arrow = pa.RecordBatch.from_pylist([row.cells for row in batch.rows], schema)
                except pa.ArrowException as error:
                    raise ValueError(
                        f"From {batch.rows[0].where} on, rows have other types: {error}. {_JSONL}"
                    ) from error
                schema = arrow.schema
            for name, values in batch.replaced.items():
                index = arrow.schema.get_field_index(name)
                kept = arrow.schema.field(index)
                arrow = arrow.set_column(index, kept, pa.array(values, kept.type))
            for name, found in batch.added.items():
                arrow = arrow.append_column(name, pa.array(found, pa.string()))
            pending.append(arrow)
            if sum(map(len, pending)) >= _ROW_GROUP or sum(one.nbytes for one in pending) >= _ROW_GROUP_BYTES:
                flush()
        flush()
        if writer:
            writer.close()


_JSONL = "Write OUT as .jsonl, whose rows may differ."


def _check_columns(batch: RowBatch, columns: Sequence[str]) -> None:
    for row in batch.rows:
        if strange := row.cells.keys() - set(columns):
            raise ValueError(
                f"{row.where.capitalize()} has a column {sorted(strange)[0]!r} that the first row lacks. {_JSONL}"
            )


_Writer = Callable[[Path, Sequence[str], Sequence[str], Iterable[RowBatch]], None]
WRITABLE: dict[str, _Writer] = {
    ".tsv": _write_separated("\t"),
    ".csv": _write_separated(","),
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
"""By its ending what creates a file: path, columns of the rows, columns that are added, the rows.

Raises ValueError where rows differ in their columns or types, which only jsonl can hold.
"""
