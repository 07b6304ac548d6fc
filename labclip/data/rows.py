"""What a file of captions holds, row by row: csv, tsv, jsonl, json and Parquet; `archives` adds webdataset tars."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labclip.data.streaming import stream_json
from labclip.packages import require

Wanted = Callable[[str], bool]
"""Whether a column is of use; Parquet reads no others."""

_CELL_LIMIT = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table, or one sample of an archive.

    Attributes:
        number: Which one, from 1.
        where: The same for people, without the file's name: "row 7", "sample 000012".
        cells: Its values by column.
        problem: Why it can't be read, or None.
        held: Name, start and size in bytes of a picture inside the archive, or None.
    """

    number: int
    where: str
    cells: dict[str, Any]
    problem: str | None = None
    held: tuple[str, int, int] | None = None


def _numbered(number: int, cells: Any, problem: str | None = None) -> Row:
    if problem is None and not isinstance(cells, dict):
        problem = f"is a {type(cells).__name__}, not an object with columns"
    return Row(number, f"row {number}", cells if problem is None else {}, problem)


def separated_rows(path: Path, delimiter: str) -> Iterator[Row]:
    """Rows of a csv or tsv file with a header, UTF-8. Strict: an open quote would swallow the rows behind it."""
    csv.field_size_limit(_CELL_LIMIT)
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            names = [name for name in reader.fieldnames or () if name]
            if len(set(names)) < len(names):
                raise ValueError(f"{path} has two columns of one name: {', '.join(names)}. Rename one.")
            for number, cells in enumerate(reader, 1):
                extra = "has more cells than the header; quote cells that hold the separator" if None in cells else None
                yield _numbered(number, cells, extra)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} near line {reader.line_num + 1} is not sound: {error}.") from error


def jsonl_rows(path: Path) -> Iterator[Row]:
    """Rows of a file with one JSON object a line; empty lines are passed over."""
    number = 0
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                continue
            number += 1
            try:
                yield _numbered(number, json.loads(line))
            except (ValueError, RecursionError) as error:
                yield _numbered(number, {}, f"is not JSON: {error}")


def json_rows(path: Path) -> Iterator[Row]:
    """Rows of a JSON file: a list of objects, an object of objects, COCO captions, or Karpathy's `dataset_*.json`."""
    names: dict[Any, Any] = {}
    number = 0
    for key, element in stream_json(path):
        listed = isinstance(key, tuple)
        name = key[0] if isinstance(key, tuple) else key
        if listed and name == "images":
            if not isinstance(element, dict) or "sentences" not in element:
                if isinstance(element, dict):
                    names[element.get("id")] = element.get("file_name")
                continue
            cells: Any = _karpathy(element)
        elif listed and name == "annotations":
            names = names or _file_names(path)
            cells = element
            if isinstance(element, dict):
                cells = {**element, "image": names.get(element.get("image_id"))}
        elif listed or (name is not None and not isinstance(element, dict)) or name in ("info", "licenses"):
            continue
        else:
            cells = element
        number += 1
        yield _numbered(number, cells)


def _karpathy(element: dict[str, Any]) -> dict[str, Any]:
    sentences = element["sentences"] if isinstance(element["sentences"], list) else []
    folder, name = element.get("filepath"), element.get("filename")
    return {
        **element,
        "caption": [sentence.get("raw") for sentence in sentences if isinstance(sentence, dict)],
        "image": f"{folder}/{name}" if folder and name else name,
    }


def _file_names(path: Path) -> dict[Any, Any]:
    """COCO's file names by id, for a file whose annotations stand before its images."""
    return {
        element.get("id"): element.get("file_name")
        for key, element in stream_json(path)
        if key == ("images",) and isinstance(element, dict)
    }


def parquet() -> Any:
    """The reader of Parquet files.

    Raises:
        MissingPackageError: If pyarrow is not installed.
    """
    return require("pyarrow.parquet", "Parquet files need pyarrow", 'pip install "labclip[data]"')


def parquet_rows(path: Path, wanted: Wanted) -> Iterator[Row]:
    """Rows of a Parquet file, a few hundred in memory at a time."""
    number = 0
    with open_parquet(path) as file:
        columns = [name for name in file.schema_arrow.names if wanted(name)]
        if not columns:
            yield Row(1, "row 1", dict.fromkeys(file.schema_arrow.names))
        for batch in file.iter_batches(batch_size=256, columns=columns):
            for cells in batch.to_pylist():
                number += 1
                yield _numbered(number, cells)


def open_parquet(path: Path) -> Any:
    """An open Parquet file.

    Raises:
        MissingPackageError: If pyarrow is not installed.
        ValueError: If the file is none.
    """
    reader = parquet()
    try:
        return reader.ParquetFile(path)
    except ValueError as error:  # pyarrow's own errors are ValueErrors that do not name the file
        raise ValueError(f"{path} is not a whole Parquet file ({error}).") from error
