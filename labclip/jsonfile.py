"""The one reader of JSON files: whatever is wrong with one is a ValueError that names the file and the place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json(path: str | Path, *, remedy: str = "", max_bytes: int | None = None) -> Any:
    """The value of a JSON file, UTF-8.

    `remedy` is the last sentence of every message; a file of more than `max_bytes` is refused. ValueError names the
    file, the line and the column.
    """
    path, end = Path(path), f" {remedy}" if remedy else ""
    if max_bytes is not None and (size := path.stat().st_size) > max_bytes:
        raise ValueError(f"{path} has {size:,} bytes, where at most {max_bytes:,} are expected.{end}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise ValueError(f"{path} is not JSON: {where}.{end}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is not JSON that can be read: it is nested too deeply.{end}") from error
    except MemoryError as error:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, too many for the memory.{end}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not JSON: byte {error.start} is not UTF-8 text.{end}") from error
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"{path} is not JSON that can be read: {error}.{end}") from error


def read_json_object(path: str | Path, *, remedy: str = "", max_bytes: int | None = None) -> dict[str, Any]:
    """The object of a JSON file: `read_json`, and ValueError if the value is not an object."""
    value = read_json(path, remedy=remedy, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not an object.{f' {remedy}' if remedy else ''}")
    return value
