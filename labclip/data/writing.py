"""Files with columns added: csv, tsv, jsonl and Parquet, written in batches of rows as they are read."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from labclip.data.inputs import READERS
from labclip.data.rows import BATCH, Row, open_parquet
from labclip.packages import require

_ROW_GROUP = 65_536  # rows, as most Parquet writers choose
_ROW_GROUP_BYTES = 128 << 20  # where rows hold images


class Batch:
    """Some rows that follow one another.

    Attributes:
        rows: The rows; of a Parquet file only the columns asked for.
        arrow: The Parquet record batch they come from, with every column, or None.
    """

    def __init__(self, rows: Sequence[Row], arrow: Any = None) -> None:
        self.rows, self.arrow = rows, arrow

    def cells(self) -> list[dict[str, Any]]:
        """The rows with every column."""
        return [row.cells for row in self.rows] if self.arrow is None else self.arrow.to_pylist()


def read_batches(path: Path, wanted: Sequence[str]) -> Iterator[Batch]:
    """The rows of a file in batches; what is `wanted` of a Parquet file is in their cells, the rest beside them."""
    if path.suffix.lower() != ".parquet":
        rows = READERS[path.suffix.lower()](path, lambda _: True)
        while batch := list(itertools.islice(rows, BATCH)):
            yield Batch(batch)
        return
    number = itertools.count(1)
    with open_parquet(path) as file:
        for arrow in file.iter_batches(BATCH):
            found = zip(arrow.select(wanted).to_pylist(), number, strict=False)
            yield Batch([Row(n, f"row {n}", cells) for cells, n in found], arrow)


class Sink(Protocol):
    """A file to write."""

    def write(self, batch: Batch, replaced: Mapping[str, list[Any]], added: Mapping[str, list[str | None]]) -> None:
        """Append rows, with columns replaced and others added."""

    def close(self) -> None:
        """Write what is pending."""


def open_sink(path: Path, ending: str, columns: Sequence[str], added: Sequence[str]) -> Sink:
    """Create a file.

    Args:
        path: Where; there must be no such file.
        ending: What tells its format, one of `WRITABLE`.
        columns: Those of the rows to come.
        added: Those that are added.
    """
    if ending == ".parquet":
        return _ParquetSink(path, columns)
    if ending == ".jsonl":
        return _JsonLinesSink(path)
    return _SeparatedSink(path, columns, added, "," if ending == ".csv" else "\t")


WRITABLE = (".tsv", ".csv", ".jsonl", ".parquet")


class _SeparatedSink:
    def __init__(self, path: Path, columns: Sequence[str], added: Sequence[str], delimiter: str) -> None:
        self._file = path.open("x", newline="", encoding="utf-8")
        self._columns = columns
        self._writer = csv.DictWriter(self._file, [*columns, *added], delimiter=delimiter, lineterminator="\n")
        self._writer.writeheader()

    def write(self, batch: Batch, replaced: Mapping[str, list[Any]], added: Mapping[str, list[str | None]]) -> None:
        _check_columns(batch, self._columns)
        for cells in _merged(batch, {**replaced, **added}):
            self._writer.writerow({name: _cell(value) for name, value in cells.items()})

    def close(self) -> None:
        self._file.close()


class _JsonLinesSink:
    """A row may have columns of its own."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("x", newline="", encoding="utf-8")

    def write(self, batch: Batch, replaced: Mapping[str, list[Any]], added: Mapping[str, list[str | None]]) -> None:
        for cells in _merged(batch, {**replaced, **added}):
            self._file.write(json.dumps(cells, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


class _ParquetSink:
    """Columns that come from a Parquet file keep their exact types."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        install = "Parquet files need pyarrow", 'pip install "labclip[data]"'
        self._parquet, self._arrow = require("pyarrow.parquet", *install), require("pyarrow", *install)
        self._path, self._columns = path, columns
        self._schema: Any = None
        self._writer: Any = None
        self._pending: list[Any] = []
        path.open("x").close()

    def write(self, batch: Batch, replaced: Mapping[str, list[Any]], added: Mapping[str, list[str | None]]) -> None:
        arrow = self._as_arrow(batch)
        for name, values in replaced.items():
            index = arrow.schema.get_field_index(name)
            field = arrow.schema.field(index)
            arrow = arrow.set_column(index, field, self._arrow.array(values, field.type))
        for name, found in added.items():
            arrow = arrow.append_column(name, self._arrow.array(found, self._arrow.string()))
        self._pending.append(arrow)
        if sum(map(len, self._pending)) >= _ROW_GROUP or sum(b.nbytes for b in self._pending) >= _ROW_GROUP_BYTES:
            self._flush()

    def _as_arrow(self, batch: Batch) -> Any:
        if batch.arrow is not None:
            return batch.arrow
        _check_columns(batch, self._columns)
        try:
            arrow = self._arrow.RecordBatch.from_pylist(batch.cells(), self._schema)
        except self._arrow.ArrowException as error:
            raise ValueError(
                f"From {batch.rows[0].where} on, rows do not fit the types of those before ({error}). "
                "Write OUT as .jsonl, whose rows may differ."
            ) from error
        self._schema = arrow.schema
        return arrow

    def _flush(self) -> None:
        if self._pending:
            table = self._arrow.Table.from_batches(self._pending)
            self._writer = self._writer or self._parquet.ParquetWriter(self._path, table.schema)
            self._writer.write_table(table, row_group_size=_ROW_GROUP)
        self._pending = []

    def close(self) -> None:
        self._flush()
        if self._writer:
            self._writer.close()


def _merged(batch: Batch, values: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for index, cells in enumerate(batch.cells()):
        yield cells | {name: column[index] for name, column in values.items()}


def _check_columns(batch: Batch, columns: Sequence[str]) -> None:
    """Rows of jsonl may each have other columns, which only jsonl can hold."""
    for row in batch.rows:
        if strange := row.cells.keys() - set(columns):
            raise ValueError(
                f"{row.where.capitalize()} has a column {sorted(strange)[0]!r} that the first row lacks. "
                "Write OUT as .jsonl, whose rows may differ."
            )


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value
