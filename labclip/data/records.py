"""From a row's cells to captions, their negatives and whose picture they tell of."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from labclip.data.rows import Row

CAPTIONS = ("caption", "title")
IMAGES = ("image", "filename", "filepath", "image_path")
_NUMBERED = re.compile(r"negative(?:_(\d+))?")
_PUBLISHED_NEGATIVES = ("neg_caption", "negative_caption")  # NegCLIP's and SugarCrepe's


class Picture(NamedTuple):
    """Where a picture lies.

    Attributes:
        key: 16 bytes, equal for rows of one picture.
        name: For people: its path as the table has it, or its name in the archive.
        start: Inside an archive its first byte, inside a Parquet file its row from 0; None for a file of its own.
        size: Inside an archive its bytes, inside a Parquet file -1.
    """

    key: bytes
    name: str
    start: int | None
    size: int | None


class Record(NamedTuple):
    """A row with a picture: its sound captions, each with its negatives, and what is wrong with the others."""

    picture: Picture
    captions: list[tuple[str, list[str]]]
    problems: list[str]


@dataclass(frozen=True)
class Columns:
    """Which columns to read; None takes the usual names.

    Attributes:
        caption: The caption's; else `caption` or `title`, or an archive's `.txt`.
        image: The picture's; else `image`, `filename`, `filepath` or `image_path`.
        negatives: The negatives'; else `negative`, `negative_2`, ... where there are some, else `neg_caption` or
            `negative_caption`.
        split: Rows to take, by their column `split`; None takes all.
    """

    caption: str | None = None
    image: str | None = None
    negatives: tuple[str, ...] | None = None
    split: tuple[str, ...] | None = None

    @property
    def images(self) -> tuple[str, ...]:
        """The names that the image's column may have, the first of them that is there counts."""
        return IMAGES if self.image is None else (self.image,)

    def wanted(self, name: str) -> bool:
        """Whether a column can be of use."""
        return (
            (name in CAPTIONS if self.caption is None else name == self.caption)
            or name in self.images
            or (name in _usual_negatives([name]) if self.negatives is None else name in self.negatives)
            or (self.split is not None and name == "split")
        )

    def check(self, row: Row, file: str) -> None:
        """Refuse a file whose first row lacks a column.

        Raises:
            ValueError: The message lists the columns that are there.
        """
        needed: list[tuple[str, tuple[str, ...]]] = [("--column", (self.caption,) if self.caption else CAPTIONS)]
        if row.held is None:
            needed.append(("--image-column", self.images))
        elif self.caption is None:
            needed = [("--column", ("txt", *CAPTIONS))]
        needed += [("--negative-column", (name,)) for name in self.negatives or ()]
        if self.split is not None:
            needed.append(("", ("split",)))
        for option, names in needed:
            if not set(names) & set(row.cells):
                there = ", ".join(repr(name) for name in row.cells if name) or "none"
                hint = f" Pass {option} NAME, or column names in the first line." if option else ""
                raise ValueError(f"{file} has no column {' or '.join(map(repr, names))}; it has {there}.{hint}")

    def takes(self, row: Row) -> bool:
        """Whether the row belongs to the splits asked for."""
        return self.split is None or row.problem is not None or row.cells.get("split") in self.split

    def record(self, row: Row) -> Record | str:
        """What a row says, or what is wrong with it."""
        if row.problem is not None:
            return row.problem
        picture = self._picture(row)
        if isinstance(picture, str):
            return picture
        cell = row.cells.get(self._first(row, self.caption, ("txt", *CAPTIONS) if row.held else CAPTIONS))
        several = _listed(cell)
        captions = [cell] if several is None else several
        if not captions:
            return "has an empty list of captions"
        columns = _usual_negatives(row.cells) if self.negatives is None else self.negatives
        negatives: list[list[Any]] = [[] for _ in captions]
        for column in columns:
            value = row.cells.get(column)
            values = _listed(value)
            if several is None:
                negatives[0] += [value] if values is None else values
            elif values is not None and len(values) == len(captions):
                for mine, one in zip(negatives, values, strict=True):
                    nested = _listed(one)
                    mine += [one] if nested is None else nested
            elif not _is_empty(value):
                return f"has {len(captions)} captions, so {column!r} must be a list of as many, one for each"
        record = Record(picture, [], [])
        for caption, mine in zip(captions, negatives, strict=True):
            real = [one for one in mine if not _is_empty(one)]
            problem = next(filter(None, map(_text_problem, (caption, *real))), None)
            if problem is not None:
                record.problems.append(problem)
            else:
                record.captions.append((caption, list(dict.fromkeys(real))))
        return record

    def _picture(self, row: Row) -> Picture | str:
        if row.held is not None:
            inside, start, size = row.held
            return Picture(_key(f"{start}".encode()), inside, start, size)
        cell = row.cells.get(self._first(row, self.image, self.images))
        name: Any = cell
        if isinstance(cell, dict) and set(cell) <= {"bytes", "path"}:  # as Hugging Face datasets keep images
            name, cell = cell.get("path"), cell.get("bytes") or cell.get("path")
        if isinstance(cell, bytes):
            return Picture(_key(b"bytes", cell), name if isinstance(name, str) else row.where, row.number - 1, -1)
        if _is_empty(cell):
            return "names no image"
        if not isinstance(cell, str):
            return f"has an image that is a {type(cell).__name__}, not a path"
        if problem := _text_problem(cell):
            return problem
        return Picture(_key(b"path", cell.encode()), cell, None, None)

    @staticmethod
    def _first(row: Row, chosen: str | None, usual: Sequence[str]) -> str:
        return chosen or next((name for name in usual if name in row.cells), usual[0])


def _usual_negatives(names: Any) -> tuple[str, ...]:
    numbered = [(int(found[1] or 1), name) for name in names if name and (found := _NUMBERED.fullmatch(name))]
    return tuple(name for _, name in sorted(numbered)) or tuple(n for n in _PUBLISHED_NEGATIVES if n in names)


def _key(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).digest()


def _listed(cell: Any) -> list[Any] | None:
    """A cell that is a list, or is a list of strings written out, as in NegCLIP's table; None for any other."""
    if isinstance(cell, list):
        return cell
    if isinstance(cell, str) and cell.startswith("[") and cell.endswith("]"):
        try:
            value = ast.literal_eval(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return value
    return None


def _is_empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _text_problem(text: Any) -> str | None:
    if _is_empty(text):
        return "has an empty caption"
    if not isinstance(text, str):
        return f"has a caption that is a {type(text).__name__}, not a text"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"holds {text[:40]!r}, which is no valid Unicode"
    return None
