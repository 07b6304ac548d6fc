"""The entries of a JSON file or a table, each with its location, and their fields checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from labclip.data.rows import Row, Wanted, read_rows
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
    if not isinstance(value, dict | list) or not value:
        raise ValueError(f"{path} has no item.")
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return ((f"{path.name} item {key}", item) for key, item in pairs)


def table_rows(path: Path, wanted: Wanted = lambda _: True) -> Iterator[Row]:
    """The rows of a csv, tsv, jsonl, json or Parquet file, each with file and position; ValueError if there is none."""
    empty = True
    for row in read_rows(path, wanted):
        empty = False
        yield row
    if empty:
        raise ValueError(f"{path} has no row.")


def one_of(name: str, value: Any, allowed: Sequence[str]) -> str:
    """An option's value, checked to be one of those allowed."""
    if value not in allowed:
        some = ", ".join(allowed)
        raise ValueError(f'{name} is {value!r}. Pass options={{"{name}": VALUE}} with one of {some}.')
    return str(value)
