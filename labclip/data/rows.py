"""Find files of captions, and read each format row by row.

WebDataset tars are read in place, without extraction: neighbouring members with one stem form a sample.
"""

from __future__ import annotations

import csv
import glob
import itertools
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from labclip.data.images import ImageSource
from labclip.files import read_json
from labclip.packages import open_parquet, parquet_columns

Cells = dict[str, Any]
Row = tuple[str, Any]
"""The row's location in words ("captions.csv line 7", "0.tar sample 000012"), and its cells by column.

An image stored in the file itself (tar, Parquet) is an `ImageSource`. A row of JSON may be any JSON value."""

_MAX_CELL = 2**24  # characters in a cell of a csv file; the csv module's default is 131,072
_TAR_IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")
_END_OF_TAR = bytes(512)


def separated_rows(path: Path) -> Iterator[Row]:
    """Rows of a UTF-8 csv or tsv file with a header. Strict, because an open quote would swallow the rows after it."""
    lines = separated_lines(path)
    _, header = next(lines, ("", []))
    if (repeated := next((name for name in header if header.count(name) > 1), None)) is not None:
        raise ValueError(f"{path} has several columns called {repeated!r}. Rename all but one.")
    for location, cells in lines:
        if len(cells) != len(header):
            amount = "more" if len(cells) > len(header) else "fewer"
            raise ValueError(
                f"{location} has {amount} cells than the header: {len(cells)} for {len(header)} columns; quote cells "
                f"that hold the separator."
            )
        yield location, dict(zip(header, cells, strict=True))


def separated_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Location and cells of each row of a csv or tsv file, without blank lines. A row may span several lines."""
    csv.field_size_limit(_MAX_CELL)
    reader = csv.reader(_lines(path), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield f"{path.name} line {line}", cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path} is malformed near line {line}: {error}.") from error


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 text file, with their line ends as stored."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from error


def text_rows(path: Path) -> Iterator[Row]:
    """The lines of a text file, each a caption."""
    for number, line in enumerate(_lines(path), 1):
        yield f"{path.name} line {number}", {"caption": line.rstrip("\r\n")}


def jsonl_rows(path: Path) -> Iterator[Row]:
    """Rows of a file with one JSON value per line; empty lines are skipped."""
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            location = f"{path.name} line {number}"
            yield location, _parse_json(location, line)


def _parse_json(location: str, text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{location} is not JSON: {error}.") from error


def json_rows(path: Path) -> Iterator[Row]:
    """Rows of a JSON file: a list, the values of an object, COCO captions, or Karpathy's `dataset_*.json`."""
    value = read_json(path)
    if isinstance(value, dict):
        images, captions = value.get("images"), value.get("annotations")
        if isinstance(images, list) and isinstance(captions, list):
            names = {image.get("id"): image.get("file_name") for image in images if isinstance(image, dict)}
            rows = (row for row in captions if isinstance(row, dict))
            value = [{**row, "image": names.get(row.get("image_id"))} for row in rows]
        elif isinstance(images, list):
            value = images
    if not isinstance(value, list | dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not a list of rows.")
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield f"{path.name} item {key}", item


def parquet_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Rows of a Parquet file, 256 in memory at a time. An image stored in a cell becomes an `ImageSource`."""
    count = 0
    with open_parquet(path) as file:
        for batch in file.iter_batches(batch_size=256, columns=columns):
            for row, cells in enumerate(batch.to_pylist(), count):
                location = f"{path.name} row {row + 1}"
                for column, cell in cells.items():
                    # A Hugging Face dataset stores an image as a struct of its bytes and its name.
                    is_struct = isinstance(cell, dict) and cell.keys() <= {"bytes", "path"}
                    name, data = (cell.get("path"), cell.get("bytes")) if is_struct else (None, cell)
                    if isinstance(data, bytes):
                        name = name or f"row {row + 1}"
                        cells[column] = ImageSource(name, path, start=row, column=column, data=data, location=location)
                        cells[column].data = None  # only its key needed them; a whole file may not fit in memory
                    elif is_struct:
                        cells[column] = name
                yield location, cells
            count += len(batch)


def tar_rows(path: Path) -> Iterator[Row]:
    """One row per sample of an uncompressed tar.

    Its cells are those of the sample's json, and from the other files "caption", "cls" (the class) and "image", an
    `ImageSource` or None. A tar that is cut off, damaged or compressed raises ValueError.
    """
    try:
        with tarfile.open(path, mode="r:") as tar:
            for key, members in itertools.groupby(_members(tar, path), key=lambda member: member[0]):
                location = f"{path.name} sample {key}"
                yield location, _sample(tar, path, location, [member[1:] for member in members])
    except tarfile.TarError as error:
        raise ValueError(
            f"{path} is not a complete, uncompressed tar ({error}). Download it again, or decompress it first."
        ) from error


def _members(tar: Any, path: Path) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Sample key, extension and header of each regular file, in order."""
    for member in iter(tar.next, None):
        tar.members = []  # tarfile would keep every header in memory
        folder, slash, name = member.name.rpartition("/")
        stem, dot, extension = name.partition(".")
        if member.isreg() and dot and stem:
            yield folder + slash + stem, extension.lower(), member
    # For tarfile the archive also ends at garbage, or where the file was cut between two members.
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(len(_END_OF_TAR)) != _END_OF_TAR:
        raise ValueError(
            f"{path} is cut off or damaged at byte {tar.offset:,}: there is no end mark. Download it again."
        )


def _sample(tar: Any, path: Path, location: str, members: Sequence[tuple[str, tarfile.TarInfo]]) -> Cells:
    by_extension = dict(members)
    if len(by_extension) < len(members):
        raise ValueError(f"{location} has two files with the same extension. Write the tar again.")
    texts = {
        extension: tar.extractfile(by_extension[extension]).read()
        for extension in by_extension.keys() & {"json", "txt", "cls"}
    }
    cells: Any = _parse_json(location, texts["json"]) if "json" in texts else {"caption": None}
    if not isinstance(cells, dict):
        return cells  # the caller refuses it
    for extension, column in (("txt", "caption"), ("cls", "cls")):
        if extension in texts:
            # Bytes that are not UTF-8 become an invalid text, so that only this row is reported as unusable.
            cells[column] = texts[extension].decode("utf-8-sig", "surrogateescape").strip("\n")
    image = next((by_extension[extension] for extension in _TAR_IMAGES if extension in by_extension), None)
    cells["image"] = image and ImageSource(
        image.name, path, start=image.offset_data, size=image.size, location=location
    )
    return cells


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".csv": separated_rows, ".tsv": separated_rows, ".jsonl": jsonl_rows, ".ndjson": jsonl_rows, ".json": json_rows,
    ".parquet": parquet_rows, ".txt": text_rows, ".tar": tar_rows,
}  # fmt: skip


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of a file, of Parquet only some `columns`. An unknown ending raises ValueError at once."""
    if (ending := path.suffix.lower()) not in READERS:
        raise ValueError(f"{path} can't be read: its ending is none of {', '.join(READERS)}. Rename or convert it.")
    return parquet_rows(path, columns) if ending == ".parquet" else READERS[ending](path)


def column_names(path: Path) -> list[str]:
    """The columns of a Parquet file, or those of the first row of any other file."""
    if path.suffix.lower() == ".parquet":
        return list(parquet_columns(path))
    return next((list(cells) for _, cells in read_rows(path) if isinstance(cells, dict)), [])


def fields(entry: Any, names: Sequence[str], location: str) -> list[Any]:
    """The row's values in the order of `names`; ValueError if it is not an object or lacks one of them."""
    cells = entry if isinstance(entry, dict) else {}
    for name in names:
        if name not in cells:
            raise ValueError(f"{location} has no {name}; it has {', '.join(map(str, cells)) or 'nothing'}.")
    return [cells[name] for name in names]


def find_inputs(captions: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files of captions of a path, a pattern such as "shards/*.tar", a folder of shards, or several of these.

    Raises FileNotFoundError if there is no such file, and ValueError if a file is empty, listed twice, or has an
    unknown ending.
    """
    names = [captions] if isinstance(captions, str | Path) else captions
    paths = [path for name in names for path in _matching_files(Path(name).expanduser())]
    for path in paths:
        read_rows(path)  # refuses an unknown ending
        if not path.stat().st_size:
            raise ValueError(f"{path} is empty. Pass a file with captions in it.")
    if not paths or len(set(paths)) < len(paths):
        raise ValueError("captions has no file, or one file twice. Pass each file once.")
    return paths


def _matching_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        shards = [sorted(path.glob(pattern)) for pattern in ("*.tar", "*.parquet")]
        if sum(map(bool, shards)) != 1:
            raise ValueError(f"{path} is a folder without tars or Parquet files, or with both. Pass its files instead.")
        return shards[0] or shards[1]
    if matches := sorted(file for file in map(Path, glob.glob(str(path), recursive=True)) if file.is_file()):
        return matches
    raise FileNotFoundError(f"There is no file {path}. Pass captions as {', '.join(READERS)}.")
