"""Rows in Parquet files. Needs the extra `data`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labclip.data.tables import BATCH, Batch, Source, check_columns
from labclip.packages import require

_ROW_GROUP = 65_536  # rows, as most Parquet writers choose
_ROW_GROUP_BYTES = 128 << 20  # where rows hold images


class Parquet:
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parquet = require("pyarrow.parquet", "Parquet needs pyarrow", 'pip install "labclip[data]"')
        self._arrow = require("pyarrow", "Parquet needs pyarrow", 'pip install "labclip[data]"')
        with self._open() as file:
            self.schema = file.schema_arrow

    @contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            with self._parquet.ParquetFile(self.path) as file:
                yield file
        except self._arrow.ArrowException as error:
            raise ValueError(f"{self.path} is not a whole Parquet file ({str(error).splitlines()[0]})") from error

    @property
    def columns(self) -> list[str]:
        return list(self.schema.names)

    @property
    def named(self) -> list[str]:
        types = self._arrow.types
        kinds = (types.is_string, types.is_large_string, types.is_integer)
        return [field.name for field in self.schema if any(kind(field.type) for kind in kinds)]

    def batches(self, wanted: list[str], *, whole: bool) -> Iterator[Batch]:
        number = 1
        with self._open() as file:
            for arrow in file.iter_batches(BATCH, columns=None if whole else wanted):
                rows = arrow.select(wanted).to_pylist()
                yield Batch(rows, [f"row {number + i}" for i in range(len(rows))], arrow)
                number += len(rows)


class ParquetSink:
    """A Parquet file being written; columns that come from one keep their exact types."""

    def __init__(self, path: Path, source: Source, added: list[str]) -> None:
        self._parquet = require("pyarrow.parquet", "Parquet needs pyarrow", 'pip install "labclip[data]"')
        self._arrow = require("pyarrow", "Parquet needs pyarrow", 'pip install "labclip[data]"')
        self._path, self._source, self._added = path, source, added
        self._schema: Any = None
        self._writer: Any = None
        self._pending: list[Any] = []
        path.open("x").close()

    def write(self, batch: Batch, replaced: dict[str, list[Any]], added: dict[str, list[str | None]]) -> None:
        arrow = self._as_arrow(batch)
        for name, values in replaced.items():
            index = arrow.schema.get_field_index(name)
            arrow = arrow.set_column(
                index, arrow.schema.field(index), self._arrow.array(values, arrow.schema.field(index).type)
            )
        for name, found in added.items():
            arrow = arrow.append_column(name, self._arrow.array(found, self._arrow.string()))
        self._pending.append(arrow)
        if sum(map(len, self._pending)) >= _ROW_GROUP or sum(b.nbytes for b in self._pending) >= _ROW_GROUP_BYTES:
            self._flush()

    def _as_arrow(self, batch: Batch) -> Any:
        if batch.arrow is not None:
            return batch.arrow
        check_columns(batch, self._source)
        try:
            arrow = self._arrow.RecordBatch.from_pylist(batch.rows, self._schema)
        except self._arrow.ArrowException as error:
            raise ValueError(
                f"{self._source.path}, {batch.places[0]} and on, does not fit the types of the rows before ({error})."
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
