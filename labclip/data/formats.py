"""Which file format a name's ending tells: tsv, csv, jsonl, parquet and txt to read, all but txt to write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from labclip.data.parquet import Parquet, ParquetSink
from labclip.data.tables import Delimited, DelimitedSink, JsonLines, JsonLinesSink, Lines, Sink, Source


def open_source(path: Path) -> Source:
    """Open a file by its ending.

    Raises:
        FileNotFoundError: If there is none.
        MissingPackageError: If it is Parquet and pyarrow is not installed.
        ValueError: If it is empty, malformed, or of another format.
    """
    kind = kind_of(path, list(_SOURCES))
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty.")
    return _SOURCES[kind](path)


def open_sink(path: Path, target: Path, source: Source, added: list[str]) -> Sink:
    """Create `path` to be written in the format that `target`, its final name, tells."""
    return _SINKS[kind_of(target, list(_SINKS))](path, source, added)


def kind_of(path: Path, known: list[str]) -> str:
    """The ending of a path, checked against those that are known."""
    ending = path.suffix.lower()
    if ending not in known:
        raise ValueError(f"{path} ends in {ending!r}. Known here are {', '.join(known)}.")
    return ending


def writable() -> list[str]:
    """The endings of the formats that can be written."""
    return list(_SINKS)


_SOURCES: dict[str, Callable[[Path], Source]] = {
    ".tsv": lambda path: Delimited(path, "\t"),
    ".csv": lambda path: Delimited(path, ","),
    ".jsonl": JsonLines,
    ".parquet": Parquet,
    ".txt": Lines,
}
_SINKS: dict[str, Callable[[Path, Source, list[str]], Sink]] = {
    ".tsv": lambda path, source, added: DelimitedSink(path, source, added, "\t"),
    ".csv": lambda path, source, added: DelimitedSink(path, source, added, ","),
    ".jsonl": JsonLinesSink,
    ".parquet": ParquetSink,
}
