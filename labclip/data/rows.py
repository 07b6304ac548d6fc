"""Which files of captions are meant, and what each kind holds, row by row.

WebDataset tars are read where they are: neighbouring members of one name are a sample, and nothing is extracted.
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
"""Where a row is, for people ("captions.csv line 7", "0.tar sample 000012"), and its cells by column.

An image that the file itself holds, a tar or Parquet, is an `ImageSource`. JSON may hold other values than objects."""

Wanted = Callable[[str], bool]
"""Whether a column is of use; Parquet reads no others."""

BATCH = 256
"""Rows of a Parquet file in memory at a time."""

_CELL = 2**24  # characters of a cell of a csv file; the csv module's own limit is 131,072
_IN_TAR = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")
_END_OF_TAR = bytes(512)


def separated_rows(path: Path) -> Iterator[Row]:
    """Rows of a csv or tsv file with a header, UTF-8. Strict: an open quote would take in the rows behind it."""
    lines = separated_lines(path)
    _, header = next(lines, ("", []))
    if (repeated := next((name for name in header if header.count(name) > 1), None)) is not None:
        raise ValueError(f"{path} has several columns {repeated!r}. Rename all but one.")
    for location, cells in lines:
        if len(cells) != len(header):
            amount = "more" if len(cells) > len(header) else "fewer"
            raise ValueError(
                f"{location} has {amount} cells than the header: {len(cells)} for {len(header)} columns; quote cells "
                f"that hold the separator."
            )
        yield location, dict(zip(header, cells, strict=True))


def separated_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The cells of a csv or tsv file and the line that they begin in; blank lines are skipped."""
    csv.field_size_limit(_CELL)
    reader = csv.reader(_lines(path), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
    line = 1
    try:
        for cells in reader:
            begin, line = line, reader.line_num + 1
            if cells:
                yield f"{path.name} line {begin}", cells
    except csv.Error as error:
        raise ValueError(f"{path} near line {line} is not sound: {error}.") from error


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file, with the ends that they have."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from error


def text_rows(path: Path) -> Iterator[Row]:
    """Lines of a text file, each a caption."""
    for number, line in enumerate(_lines(path), 1):
        yield f"{path.name} line {number}", {"caption": line.rstrip("\r\n")}


def jsonl_rows(path: Path) -> Iterator[Row]:
    """Rows of a file with one JSON value a line; empty lines are skipped."""
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            location = f"{path.name} line {number}"
            yield location, _parsed(location, line)


def _parsed(location: str, text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{location} is not JSON: {error}.") from error


def json_rows(path: Path) -> Iterator[Row]:
    """The items of a JSON file: a list, the values of an object, COCO captions, or Karpathy's `dataset_*.json`."""
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


def parquet_rows(path: Path, wanted: Wanted = lambda _: True) -> Iterator[Row]:
    """Rows of a Parquet file, a few hundred in memory at a time; an image that it holds is an `ImageSource`."""
    count = 0
    with open_parquet(path) as file:
        columns = [name for name in file.schema_arrow.names if wanted(name)]
        for batch in file.iter_batches(batch_size=BATCH, columns=columns):
            for row, cells in enumerate(batch.to_pylist(), count):
                location = f"{path.name} row {row + 1}"
                for column, cell in cells.items():
                    # Hugging Face datasets keep an image as its bytes and its name.
                    held = cell if isinstance(cell, dict) and cell.keys() <= {"bytes", "path"} else {"bytes": cell}
                    name, data = held.get("path"), held.get("bytes")
                    if isinstance(data, bytes):
                        name = name or f"row {row + 1}"
                        cells[column] = ImageSource(name, path, start=row, column=column, data=data, location=location)
                        cells[column].data = None  # its key is known: all of a file may not fit in memory
                    elif held is cell:
                        cells[column] = name
                yield location, cells
            count += len(batch)


def tar_rows(path: Path) -> Iterator[Row]:
    """A row a sample of a plain tar: the cells of its json, its text as "caption", its class as "cls", its "image".

    The image is an `ImageSource`, None where the sample has none. A tar that is cut off, damaged or compressed is an
    error.
    """
    try:
        with tarfile.open(path, mode="r:") as tar:
            for key, members in itertools.groupby(_members(tar, path), key=lambda member: member[0]):
                location = f"{path.name} sample {key}"
                yield location, _sample(tar, path, location, [member[1:] for member in members])
    except tarfile.TarError as error:
        raise ValueError(
            f"{path} is not a whole, uncompressed tar ({error}). Fetch it again, or decompress it first."
        ) from error


def _members(tar: Any, path: Path) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Key, extension and header of every plain file, in order."""
    for member in iter(tar.next, None):
        tar.members = []  # else it keeps every header it has seen
        folder, slash, name = member.name.rpartition("/")
        stem, dot, extension = name.partition(".")
        if member.isreg() and dot and stem:
            yield folder + slash + stem, extension.lower(), member
    # tarfile takes garbage, or the end of a file that was cut between two members, for the end of the archive.
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(len(_END_OF_TAR)) != _END_OF_TAR:
        raise ValueError(
            f"{path} is cut off or damaged at byte {tar.offset:,}: it has no end mark there. Fetch it again."
        )


def _sample(tar: Any, path: Path, location: str, members: Sequence[tuple[str, tarfile.TarInfo]]) -> Cells:
    by_extension = dict(members)
    if len(by_extension) < len(members):
        raise ValueError(f"{location} has two files of one extension. Write the tar again.")
    texts = {
        extension: tar.extractfile(by_extension[extension]).read()
        for extension in by_extension.keys() & {"json", "txt", "cls"}
    }
    cells: Any = _parsed(location, texts["json"]) if "json" in texts else {"caption": None}
    if not isinstance(cells, dict):
        return cells  # which its reader refuses
    for extension, column in (("txt", "caption"), ("cls", "cls")):
        if extension in texts:
            # What is not UTF-8 becomes a text that no model can read, so that its row is told to be bad.
            cells[column] = texts[extension].decode("utf-8-sig", "surrogateescape").strip("\n")
    image = next((by_extension[extension] for extension in _IN_TAR if extension in by_extension), None)
    cells["image"] = image and ImageSource(
        image.name, path, start=image.offset_data, size=image.size, location=location
    )
    return cells


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".csv": separated_rows, ".tsv": separated_rows, ".jsonl": jsonl_rows, ".ndjson": jsonl_rows, ".json": json_rows,
    ".parquet": parquet_rows, ".txt": text_rows, ".tar": tar_rows,
}  # fmt: skip


def read_rows(path: Path, wanted: Wanted = lambda _: True) -> Iterator[Row]:
    """The rows of a file, by its ending; ValueError, at once, if that is not known."""
    if (ending := path.suffix.lower()) not in READERS:
        raise ValueError(f"{path} is of no kind that is read: {', '.join(READERS)}. Rename or convert it.")
    return parquet_rows(path, wanted) if ending == ".parquet" else READERS[ending](path)


def column_names(path: Path) -> list[str]:
    """The columns of a file, of one that is not Parquet those of its first row."""
    if path.suffix.lower() == ".parquet":
        return list(parquet_columns(path))
    return next((list(cells) for _, cells in read_rows(path) if isinstance(cells, dict)), [])


def fields(entry: Any, names: Sequence[str], location: str) -> list[Any]:
    """Values of a row, in the order of `names`; ValueError where it is no object, or lacks one of them."""
    there = entry if isinstance(entry, dict) else {}
    if lacking := [name for name in names if name not in there]:
        raise ValueError(f"{location} has no {lacking[0]}; it has {', '.join(map(str, there)) or 'nothing'}.")
    return [there[name] for name in names]


def find_inputs(captions: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files of captions: a file, a pattern such as "shards/*.tar", a folder of tars or of Parquet, or several.

    FileNotFoundError if there is none; ValueError if the kind of one is not known, it is empty, or is named twice.
    """
    names = [captions] if isinstance(captions, str | Path) else captions
    paths = [path for name in names for path in _matching(Path(name).expanduser())]
    for path in paths:
        read_rows(path)
        if not path.stat().st_size:
            raise ValueError(f"{path} is empty. Pass a file with captions in it.")
    if not paths or len(set(paths)) < len(paths):
        raise ValueError("captions names no file, or one twice. Pass each file once.")
    return paths


def _matching(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        shards = [sorted(path.glob(pattern)) for pattern in ("*.tar", "*.parquet")]
        if sum(map(bool, shards)) != 1:
            raise ValueError(f"{path} is a folder with no tars or Parquet files, or with both. Name the files.")
        return shards[0] or shards[1]
    if matches := sorted(file for file in map(Path, glob.glob(str(path), recursive=True)) if file.is_file()):
        return matches
    raise FileNotFoundError(f"There is no file {path}. Pass captions as {', '.join(READERS)}.")
