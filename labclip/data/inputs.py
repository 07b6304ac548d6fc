"""Which files of captions are meant, and how each kind is read."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from labclip.data.archives import tar_rows
from labclip.data.rows import Row, Wanted, json_rows, jsonl_rows, parquet_rows, separated_rows, text_rows

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
_SHARDS = ("*.tar", "*.parquet")


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
        shards = [sorted(path.glob(pattern)) for pattern in _SHARDS]
        if sum(map(bool, shards)) != 1:
            raise ValueError(f"{path} is a folder with no tars or Parquet files, or with both. Name the files.")
        return next(filter(None, shards))
    if os.path.lexists(path):
        raise ValueError(f"{path} is a pipe, a device or a link that leads nowhere. Pass a file.")
    if matches := sorted(Path(name) for name in glob.glob(str(path), recursive=True)):
        return [match for match in matches if match.is_file()]
    raise FileNotFoundError(f"There is no file {path}. Pass captions as {', '.join(READERS)}.")
