"""WebDataset tars: neighbouring members of one name are a sample. Nothing is ever extracted to disk."""

from __future__ import annotations

import itertools
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from labclip.data.rows import LIMIT, Row

_IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")
_BLOCK = 512


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
    held = next((places[extension] for extension in _IMAGES if extension in places), None)
    if held is None:
        return Row(number, where, {}, f"has no image, only {', '.join(sorted(places))}")
    if long := [one for one in ("json", "txt") if one in places and places[one][2] > LIMIT]:
        return Row(number, where, {}, f"has a .{long[0]} of more than {LIMIT:,} bytes")
    cells: dict[str, Any] = {}
    try:
        if "json" in places:
            value = json.loads(_read(file, places["json"]))
            if not isinstance(value, dict):
                return Row(number, where, {}, "has a .json that is not an object")
            cells = value
        for text in {"txt", "cls"} & places.keys():
            cells[text] = _read(file, places[text]).decode("utf-8-sig").strip("\n")
    except (ValueError, RecursionError) as error:
        return Row(number, where, {}, f"has a caption that can't be read: {error}")
    return Row(number, where, cells, held=held)


def _read(file: BinaryIO, place: tuple[str, int, int]) -> bytes:
    _, start, size = place
    file.seek(start)
    return file.read(size)
