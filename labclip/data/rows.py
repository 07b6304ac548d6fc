"""Which files of captions are meant, and what each kind holds, row by row.

WebDataset tars are read where they are: neighbouring members of one name are a sample, and nothing is extracted.
"""

from __future__ import annotations

import csv
import glob
import itertools
import json
import os
import tarfile
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, AnyStr, BinaryIO

from labclip.data.streaming import stream_json
from labclip.packages import PARQUET, require

Wanted = Callable[[str], bool]
"""Whether a column is of use; Parquet reads no others."""

BATCH = 256
"""Rows of a Parquet file in memory at a time."""

LIMIT = 16 * 2**20
"""Characters of a cell of a csv file or a line of text, bytes of a line of a jsonl file or of a text in an archive."""

_IN_TAR = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")
_BLOCK = 512  # bytes of a tar


@dataclass(slots=True)
class Row:
    """One row of a table, or one sample of an archive."""

    number: int  # from 1
    where: str  # the same for people: "line 7" of a text file, else "row 7", "sample 000012"
    cells: dict[str, Any]
    problem: str | None = None  # why it can't be read
    held: tuple[str, int, int] | None = None  # name, start and size in bytes of an image inside the archive


def _row(number: int, where: str, cells: Any) -> Row:
    if isinstance(cells, dict):
        return Row(number, where, cells)
    return Row(number, where, {}, f"is a {type(cells).__name__}, not an object with columns")


def separated_rows(path: Path, delimiter: str) -> Iterator[Row]:
    """Rows of a csv or tsv file with a header, UTF-8. Strict: an open quote would take in the rows behind it."""
    header: list[str] = []
    number = 0
    for line, cells in separated_lines(path, delimiter):
        if not header:
            header = cells
            if len(set(named := [name for name in header if name])) < len(named):
                raise ValueError(f"{path} has two columns of one name: {', '.join(named)}. Rename one.")
            continue
        number += 1
        problem = None
        if len(cells) != len(header):
            amount = "more" if len(cells) > len(header) else "fewer"
            problem = (
                f"has {amount} cells than the header: {len(cells)} for {len(header)} columns; "
                "quote cells that hold the separator"
            )
        yield Row(number, f"line {line}", dict(zip(header, cells, strict=False)), problem)


def separated_lines(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of a csv or tsv file and the number of the line that they begin in; blank lines are skipped."""
    csv.field_size_limit(LIMIT)
    line = 1
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader((text for _, text in _lines(file, path)), delimiter=delimiter, strict=True)
        try:
            for cells in reader:
                begin, line = line, reader.line_num + 1
                if cells:
                    yield begin, cells
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} near line {line} is not sound: {error}.") from error


def repeated_column(path: Path, delimiter: str) -> str | None:
    """A column of a csv or tsv file that would be lost in a copy, as another has its name; blank names are names."""
    header = next((cells for _, cells in separated_lines(path, delimiter)), [])
    return next((name for name in header if header.count(name) > 1), None)


def _lines(file: IO[AnyStr], path: Path) -> Iterator[tuple[int, AnyStr]]:
    """The lines of a file with their numbers, none of which fills the memory."""
    for number in itertools.count(1):
        line = file.readline(LIMIT + 1)
        if not line:
            return
        if len(line) > LIMIT:
            raise ValueError(f"{path} near line {number} is not sound: a line is longer than the limit ({LIMIT:,}).")
        yield number, line


def jsonl_rows(path: Path) -> Iterator[Row]:
    """Rows of a file with one JSON object a line; empty lines are skipped."""
    number = 0
    with path.open("rb") as file:
        for line, text in _lines(file, path):
            if not text.strip():
                continue
            number += 1
            try:
                yield _row(number, f"line {line}", json.loads(text.removeprefix(BOM_UTF8).decode()))
            except (ValueError, RecursionError) as error:
                yield Row(number, f"line {line}", {}, f"is not JSON: {error}")


def text_rows(path: Path) -> Iterator[Row]:
    """Lines of a text file, each a caption."""
    with path.open(encoding="utf-8-sig") as file:
        try:
            for number, line in _lines(file, path):
                yield Row(number, f"line {number}", {"caption": line.removesuffix("\n")})
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text: {error}.") from error


def json_rows(path: Path) -> Iterator[Row]:
    """Rows of a JSON file: a list of objects, an object of objects, COCO captions, or Karpathy's `dataset_*.json`."""
    names: dict[Any, Any] = {}
    number = 0
    for key, element in stream_json(path):
        cells: Any = element
        if key == ("images",):
            if isinstance(element, dict) and "file_name" in element and "sentences" not in element:
                names[element.get("id")] = element["file_name"]
                continue
        elif key == ("annotations",):
            names = names or _file_names(path)
            if isinstance(element, dict):
                cells = {**element, "image": names.get(element.get("image_id"))}
        elif key is not None and (isinstance(key, tuple) or key in ("info", "licenses") or type(element) is not dict):
            continue
        number += 1
        yield _row(number, f"row {number}", cells)


def _file_names(path: Path) -> dict[Any, Any]:
    """COCO's file names by id, for a file whose annotations stand before its images."""
    return {
        element.get("id"): element.get("file_name")
        for key, element in stream_json(path)
        if key == ("images",) and isinstance(element, dict)
    }


def parquet_rows(path: Path, wanted: Wanted) -> Iterator[Row]:
    """Rows of a Parquet file, a few hundred in memory at a time."""
    number = 0
    with open_parquet(path) as file:
        columns = [name for name in file.schema_arrow.names if wanted(name)]
        for batch in file.iter_batches(batch_size=BATCH, columns=columns):
            for cells in batch.to_pylist():
                number += 1
                yield Row(number, f"row {number}", cells)


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


def tar_rows(path: Path) -> Iterator[Row]:
    """A row a sample of a plain tar: the cells of its json, its text as "txt", its class as "cls", the image's place.

    Raises:
        ValueError: If it is no whole tar: cut off, compressed, or with something else inside.
    """
    with path.open("rb") as file:
        try:
            grouped = itertools.groupby(_members(file, path), key=lambda member: member[0])
            for number, (key, members) in enumerate(grouped, 1):
                yield _sample(file, number, key, list(members))
        except tarfile.TarError as error:
            raise ValueError(
                f"{path} is not a whole, uncompressed tar ({error}). Fetch it again, or decompress it first."
            ) from error


def _members(file: BinaryIO, path: Path) -> Iterator[tuple[str, str, str, int, int]]:
    """(key, extension, name, start, size) of every plain file, in order."""
    end = 0
    with tarfile.open(fileobj=file, mode="r:") as tar:
        # Without a member the offset is 0, where tarfile fails before Python 3.11.
        while tar.offset and (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # else it keeps every header it has seen
            end = tar.offset
            folder, slash, name = member.name.rpartition("/")
            stem, dot, extension = name.partition(".")
            if member.isreg() and dot and stem:
                yield folder + slash + stem, extension.lower(), member.name, member.offset_data, member.size
    # tarfile takes garbage, or the end of a file that was cut between two members, for the end of the archive.
    file.seek(end)
    mark = file.read(_BLOCK)
    if mark != bytes(_BLOCK):
        raise ValueError(f"{path} is cut off or damaged at byte {end:,}: it has no end mark there. Fetch it again.")


def _sample(file: BinaryIO, number: int, key: str, members: list[tuple[str, str, str, int, int]]) -> Row:
    where = f"sample {key}"
    places = {extension: (name, start, size) for _, extension, name, start, size in members}
    if len(places) < len(members):
        return Row(number, where, {}, "has two files of one extension")
    held = next((places[extension] for extension in _IN_TAR if extension in places), None)
    if held is None:
        return Row(number, where, {}, f"has no image, only {', '.join(sorted(places))}")
    if long := [one for one in ("json", "txt") if one in places and places[one][2] > LIMIT]:
        return Row(number, where, {}, f"has a .{long[0]} of more than {LIMIT:,} bytes")
    cells: dict[str, Any] = {}
    try:
        if "json" in places:
            value = json.loads(_member(file, places["json"]))
            if not isinstance(value, dict):
                return Row(number, where, {}, "has a .json that is not an object")
            cells = value
        for text in {"txt", "cls"} & places.keys():
            cells[text] = _member(file, places[text]).decode("utf-8-sig").strip("\n")
    except (ValueError, RecursionError) as error:
        return Row(number, where, {}, f"has a caption that can't be read: {error}")
    return Row(number, where, cells, held=held)


def _member(file: BinaryIO, place: tuple[str, int, int]) -> bytes:
    _, start, size = place
    file.seek(start)
    return file.read(size)


READERS: dict[str, Callable[[Path, Wanted], Iterator[Row]]] = {
    ".csv": lambda path, _: separated_rows(path, ","),
    ".tsv": lambda path, _: separated_rows(path, "\t"),
    ".jsonl": lambda path, _: jsonl_rows(path),
    ".ndjson": lambda path, _: jsonl_rows(path),
    ".json": lambda path, _: json_rows(path),
    ".parquet": parquet_rows,
    ".txt": lambda path, _: text_rows(path),
    ".tar": lambda path, _: tar_rows(path),
}


def reader_of(path: Path) -> Callable[[Path, Wanted], Iterator[Row]]:
    """What reads a file of captions, by its ending; ValueError if that is not known."""
    if (ending := path.suffix.lower()) not in READERS:
        raise ValueError(f"{path} is of no kind that is read: {', '.join(READERS)}. Rename or convert it.")
    return READERS[ending]


def find_inputs(captions: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files that captions are read from.

    Args:
        captions: A file, a pattern such as "shards/*.tar", a folder of tars or of Parquet files, or several of these.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the kind of a file is not known, it is empty, or one is named twice.
    """
    several = [captions] if isinstance(captions, str | Path) else list(captions)
    found = [path for one in several for path in _matching(Path(one).expanduser())]
    for path in found:
        reader_of(path)
        if not path.stat().st_size:
            raise ValueError(f"{path} is empty. Pass a file with captions in it.")
    if not found or len(set(found)) < len(found):
        raise ValueError("captions names no file, or one twice. Pass each file once.")
    return found


def _matching(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        shards = [sorted(path.glob(pattern)) for pattern in ("*.tar", "*.parquet")]
        if sum(map(bool, shards)) != 1:
            tables = sorted(one for one in path.iterdir() if one.suffix in {".csv", ".tsv", ".jsonl", ".json"})
            named = f", for example {tables[0]}" if tables else ""
            raise ValueError(f"{path} is a folder with no tars or Parquet files, or with both. Name the files{named}.")
        return next(filter(None, shards))
    if os.path.lexists(path):
        raise ValueError(f"{path} is a pipe, a device or a link that leads nowhere. Pass a file.")
    if matches := sorted(Path(name) for name in glob.glob(str(path), recursive=True)):
        return [match for match in matches if match.is_file()]
    raise FileNotFoundError(f"There is no file {path}. Pass captions as {', '.join(READERS)}.")
