"""What a file of rows is, and those kept as text: delimited, JSON lines, plain lines. All stream in batches."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

Row = dict[str, Any]

BATCH = 256


class Batch(NamedTuple):
    """Some rows that follow one another.

    Attributes:
        rows: The rows; of a Parquet file only the columns asked for.
        places: Where each stands, "line 7" or "row 7".
        arrow: The Parquet record batch they come from, with every column read, or None.
    """

    rows: list[Row]
    places: list[str]
    arrow: Any = None

    def whole(self) -> list[Row]:
        """The rows with every column read."""
        return self.rows if self.arrow is None else self.arrow.to_pylist()


class Source(Protocol):
    """A file to read."""

    path: Path

    @property
    def columns(self) -> list[str]:
        """Names of the columns, as the first row has them."""

    @property
    def named(self) -> list[str]:
        """The columns that hold names: text or whole numbers."""

    def batches(self, wanted: list[str], *, whole: bool) -> Iterator[Batch]:
        """The rows in order; columns other than the `wanted` are read if `whole`."""


class Sink(Protocol):
    """A file to write."""

    def write(self, batch: Batch, replaced: dict[str, list[Any]], added: dict[str, list[str | None]]) -> None:
        """Append rows, with columns replaced and others added."""

    def close(self) -> None:
        """Write what is pending."""


class Delimited:
    """A csv or tsv file."""

    def __init__(self, path: Path, delimiter: str) -> None:
        self.path, self._delimiter = path, delimiter
        with _text(path) as file:
            self.columns: list[str] = next(self._cells(file), ([], 0))[0]
        if repeated := {name for name in self.columns if self.columns.count(name) > 1}:
            raise ValueError(f"{path} has several columns {sorted(repeated)[0]!r}. Rename all but one.")

    @property
    def named(self) -> list[str]:
        return self.columns

    def batches(self, wanted: list[str], *, whole: bool) -> Iterator[Batch]:
        with _text(self.path) as file:
            yield from _batched(self._rows(file))

    def _rows(self, file: TextIO) -> Iterator[tuple[Row, str]]:
        width = len(self.columns)
        for cells, line in itertools.islice(self._cells(file), 1, None):
            if len(cells) != width:
                raise ValueError(f"{self.path}, line {line}: {len(cells)} cells for {width} columns.")
            yield dict(zip(self.columns, cells, strict=True)), f"line {line}"

    def _cells(self, file: TextIO) -> Iterator[tuple[list[str], int]]:
        """The cells of each line that is not blank. Strict: a stray quote must not swallow the lines behind it."""
        reader = csv.reader(file, delimiter=self._delimiter, strict=True)
        try:
            for cells in reader:
                if cells:
                    yield cells, reader.line_num
        except csv.Error as error:
            raise ValueError(f"{self.path}, line {reader.line_num}: {error}.") from error


class JsonLines:
    """A file with a JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _text(path) as file:
            self._first = next((row for row, _ in self._rows(file)), {})

    @property
    def columns(self) -> list[str]:
        return list(self._first)

    @property
    def named(self) -> list[str]:
        return [name for name, value in self._first.items() if isinstance(value, str | int)]

    def batches(self, wanted: list[str], *, whole: bool) -> Iterator[Batch]:
        with _text(self.path) as file:
            yield from _batched(self._rows(file))

    def _rows(self, file: TextIO) -> Iterator[tuple[Row, str]]:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise ValueError(f"{self.path}, line {number}: not JSON ({error}).") from error
            if not isinstance(row, dict):
                raise ValueError(f"{self.path}, line {number}: a {type(row).__name__}, not an object {{...}}.")
            yield row, f"line {number}"


class Lines:
    """A file with a caption a line."""

    def __init__(self, path: Path) -> None:
        self.path, self.columns, self.named = path, ["caption"], ["caption"]

    def batches(self, wanted: list[str], *, whole: bool) -> Iterator[Batch]:
        with _text(self.path, newline=None) as file:
            lines = ({"caption": line.removesuffix("\n")} for line in file)
            yield from _batched((row, f"line {number}") for number, row in enumerate(lines, start=1))


class DelimitedSink:
    """A csv or tsv file being written."""

    def __init__(self, path: Path, source: Source, added: list[str], delimiter: str) -> None:
        self._file = path.open("x", newline="", encoding="utf-8")
        self._columns, self._source = [*source.columns, *added], source
        self._writer = csv.DictWriter(self._file, self._columns, delimiter=delimiter, lineterminator="\n")
        self._writer.writeheader()

    def write(self, batch: Batch, replaced: dict[str, list[Any]], added: dict[str, list[str | None]]) -> None:
        check_columns(batch, self._source)
        for row in _merged(batch, replaced | added):
            self._writer.writerow({name: _cell(value) for name, value in row.items()})

    def close(self) -> None:
        self._file.close()


class JsonLinesSink:
    """A jsonl file being written; a row may have columns of its own."""

    def __init__(self, path: Path, source: Source, added: list[str]) -> None:
        self._file = path.open("x", newline="", encoding="utf-8")

    def write(self, batch: Batch, replaced: dict[str, list[Any]], added: dict[str, list[str | None]]) -> None:
        for row in _merged(batch, replaced | added):
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


@contextmanager
def _text(path: Path, newline: str | None = "") -> Iterator[TextIO]:
    """A text file to read, whatever its line ends; what is not UTF-8 is said by name."""
    try:
        with path.open(newline=newline, encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}).") from error


def _batched(rows: Iterator[tuple[Row, str]]) -> Iterator[Batch]:
    batch = Batch([], [])
    for row, place in rows:
        batch.rows.append(row)
        batch.places.append(place)
        if len(batch.rows) == BATCH:
            yield batch
            batch = Batch([], [])
    if batch.rows:
        yield batch


def _merged(batch: Batch, values: dict[str, list[Any]]) -> Iterator[Row]:
    for index, row in enumerate(batch.whole()):
        yield row | {name: column[index] for name, column in values.items()}


def check_columns(batch: Batch, source: Source) -> None:
    """Rows of jsonl may each have other columns, which only jsonl can hold."""
    known = set(source.columns)
    for row, place in zip(batch.rows, batch.places, strict=True):
        if strange := row.keys() - known:
            raise ValueError(
                f"{source.path}, {place}: a column {sorted(strange)[0]!r} that the first row lacks. "
                "Write OUT as .jsonl, whose rows may differ."
            )


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value
