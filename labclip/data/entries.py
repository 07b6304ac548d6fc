"""The entries of a JSON file or a table, each with its location, and their fields checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from labclip.data.rows import READERS
from labclip.files import read_json


def fields(entry: Any, names: Sequence[str], location: str) -> list[Any]:
    """Values of a JSON object, in the order of `names`; ValueError where it is none, or lacks some of them."""
    if not isinstance(entry, dict):
        raise ValueError(f"{location} is a {type(entry).__name__}, not an object with {', '.join(names)}.")
    lacking = [name for name in names if name not in entry]
    if lacking:
        raise ValueError(f"{location} has no {', '.join(lacking)}; it has {', '.join(map(str, entry)) or 'nothing'}.")
    return [entry[name] for name in names]


def json_items(path: Path) -> Iterator[tuple[str, Any]]:
    """The items of a JSON file that is a list, or an object whose values they are, each with file and position."""
    value = read_json(path)
    if not isinstance(value, dict | list):
        raise ValueError(f"{path} holds a {type(value).__name__}, not a list of items.")
    if not value:
        raise ValueError(f"{path} has no item.")
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return ((f"{path.name} item {key}", item) for key, item in pairs)


def table_rows(path: Path, wanted: Callable[[str], bool] = lambda _: True) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a csv, tsv, jsonl, json or Parquet file, each with file and position.

    `wanted` says whether a column is needed: Parquet reads no others.
    """
    readers = {ending: reader for ending, reader in READERS.items() if ending != ".tar"}
    if (ending := path.suffix.lower()) not in readers:
        raise ValueError(f"{path} ends in {path.suffix!r}. Known here are {', '.join(readers)}.")
    empty = True
    for where, cells in readers[ending](path, wanted):
        if isinstance(cells, str):
            raise ValueError(f"{path.name} {where} {cells}.")
        empty = False
        yield f"{path.name} {where}", cells
    if empty:
        raise ValueError(f"{path} has no row.")


def one_of(name: str, value: Any, allowed: Sequence[str]) -> str:
    """An option's value, checked to be one of those allowed."""
    if value not in allowed:
        some = ", ".join(allowed)
        raise ValueError(f'{name} is {value!r}. Pass options={{"{name}": VALUE}} with one of {some}.')
    return str(value)
