"""What an entry of a benchmark's file holds, where the names of its fields are data."""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import Any

from labclip.data.entries import fields
from labclip.evaluation.sources import Sources


def cell(entry: Any, path: str, location: str) -> Any:
    """One value of an entry; `path` is a field, or fields and positions in lists with dots between, as "1.POS.0".

    Raises:
        ValueError: If the entry has no such value.
    """
    if isinstance(entry, dict) and path in entry:
        return entry[path]
    for key in path.split("."):
        if isinstance(entry, list) and key.isdecimal():
            if int(key) >= len(entry):
                raise ValueError(f"{location} has no {path}: {str(entry)[:80]} is too short.")
            entry = entry[int(key)]
        else:
            (entry,) = fields(entry, (key,), location)
    return entry


def in_folder(sources: Sources, name: Any) -> Any:
    """An image's name; of an absolute path on the authors' machine the file's name, if there is a folder of images."""
    folder = sources.images
    if folder is None or not isinstance(name, str) or not os.path.isabs(name):
        return name
    return name if folder.absolute() in PurePath(name).parents else PurePath(name).name
