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
from pathlib import Path
from typing import IO, Any, AnyStr

from labclip.data.images import ImageSource
from labclip.data.parquet import open_parquet, parquet_columns
from labclip.data.streaming import stream_json

Row = tuple[str, dict[str, Any] | str]
"""Where a row of a table or a sample of an archive is, for people ("line 7", "row 7", "sample 000012"), and its cells,
or what is wrong with it as a sentence goes on after that. The cell "image" of a sample is an `ImageSource`."""

Wanted = Callable[[str], bool]
"""Whether a column is of use; Parquet reads no others."""

BATCH = 256
"""Rows of a Parquet file in memory at a time."""

LIMIT = 16 * 2**20
"""Characters of a cell of a csv file or a line of text, bytes of a line of a jsonl file or of a text in an archive."""

_IN_TAR = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")
_BLOCK = 512  # bytes of a tar


def _row(where: str, cells: Any) -> Row:
    return where, cells if isinstance(cells, dict) else f"is a {type(cells).__name__}, not an object with columns"


def separated_rows(path: Path, delimiter: str) -> Iterator[Row]:
    """Rows of a csv or tsv file with a header, UTF-8. Strict: an open quote would take in the rows behind it."""
    lines = separated_lines(path, delimiter)
    _, header = next(lines, (0, []))
    if (repeated := next((name for name in header if header.count(name) > 1), None)) is not None:
        raise ValueError(f"{path} has several columns {repeated!r}. Rename all but one.")
    for line, cells in lines:
        if len(cells) == len(header):
            yield f"line {line}", dict(zip(header, cells, strict=True))
        else:
            amount = "more" if len(cells) > len(header) else "fewer"
            counts = f"has {amount} cells than the header: {len(cells)} for {len(header)} columns"
            yield f"line {line}", f"{counts}; quote cells that hold the separator"


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
    with path.open("rb") as file:
        for line, text in _lines(file, path):
            if text.strip():
                try:
                    yield _row(f"line {line}", json.loads(text.removeprefix(BOM_UTF8).decode()))
                except (ValueError, RecursionError) as error:
                    yield f"line {line}", f"is not JSON: {error}"


def text_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lines of a text file, each a caption."""
    with path.open(encoding="utf-8-sig") as file:
        try:
            for number, line in _lines(file, path):
                yield f"line {number}", {"caption": line.removesuffix("\n")}
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
        yield _row(f"row {number}", cells)


def _file_names(path: Path) -> dict[Any, Any]:
    """COCO's file names by id, for a file whose annotations stand before its images."""
    return {
        element.get("id"): element.get("file_name")
        for key, element in stream_json(path)
        if key == ("images",) and isinstance(element, dict)
    }


def parquet_rows(path: Path, wanted: Wanted) -> Iterator[Row]:
    """Rows of a Parquet file, a few hundred in memory at a time."""
    number = itertools.count(1)
    with open_parquet(path) as file:
        columns = [name for name in file.schema_arrow.names if wanted(name)]
        for batch in file.iter_batches(batch_size=BATCH, columns=columns):
            for cells in batch.to_pylist():
                yield f"row {next(number)}", cells


def tar_rows(path: Path) -> Iterator[Row]:
    """A row a sample of a plain tar: the cells of its json, its text as "txt", its class as "cls", its "image".

    Raises:
        ValueError: If it is no whole tar: cut off, compressed, or with something else inside.
    """
    try:
        with tarfile.open(path, mode="r:") as tar:
            for key, members in itertools.groupby(_members(tar, path), key=lambda member: member[0]):
                yield (
                    f"sample {key}",
                    _sample(tar, path, key, [(extension, member) for _, extension, member in members]),
                )
    except tarfile.TarError as error:
        raise ValueError(
            f"{path} is not a whole, uncompressed tar ({error}). Fetch it again, or decompress it first."
        ) from error


def _members(tar: tarfile.TarFile, path: Path) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Key, extension and header of every plain file, in order."""
    end = 0
    # Without a member the offset is 0, where tarfile fails before Python 3.11.
    while tar.offset and (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # else it keeps every header it has seen
        end = tar.offset
        folder, slash, name = member.name.rpartition("/")
        stem, dot, extension = name.partition(".")
        if member.isreg() and dot and stem:
            yield folder + slash + stem, extension.lower(), member
    # tarfile takes garbage, or the end of a file that was cut between two members, for the end of the archive.
    with path.open("rb") as file:
        file.seek(end)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise ValueError(f"{path} is cut off or damaged at byte {end:,}: it has no end mark there. Fetch it again.")


def _sample(
    tar: tarfile.TarFile, path: Path, key: str, members: Sequence[tuple[str, tarfile.TarInfo]]
) -> dict[str, Any] | str:
    by_extension = dict(members)
    if len(by_extension) < len(members):
        return "has two files of one extension"
    image = next((by_extension[extension] for extension in _IN_TAR if extension in by_extension), None)
    if image is None:
        return f"has no image, only {', '.join(sorted(by_extension))}"
    location = f"{path.name} sample {key}"
    cells: dict[str, Any] = {}
    for extension in ("json", "txt", "cls"):
        if (member := by_extension.get(extension)) is None:
            continue
        if member.size > LIMIT:
            return f"has a .{extension} of more than {LIMIT:,} bytes"
        tar.fileobj.seek(member.offset_data)
        data = tar.fileobj.read(member.size)
        try:
            if extension != "json":
                cells[extension] = data.decode("utf-8-sig").strip("\n")
            elif not isinstance(cells := json.loads(data), dict):
                return "has a .json that is not an object"
        except (ValueError, RecursionError) as error:
            return f"has a caption that can't be read: {error}"
    cells["image"] = ImageSource(image.name, path, start=image.offset_data, size=image.size, location=location)
    return cells


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


def column_names(path: Path) -> list[str]:
    """The columns of a Parquet file; of another those of its first row. ValueError where that can't be read."""
    if path.suffix.lower() == ".parquet":
        return list(parquet_columns(path))
    for where, cells in reader_of(path)(path, lambda _: True):
        if isinstance(cells, str):
            raise ValueError(f"{path.name} {where} {cells}.")
        return list(cells)
    raise ValueError(f"{path} holds no captions.")


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
