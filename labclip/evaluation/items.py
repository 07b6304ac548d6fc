"""Items of a benchmark while its files are read, and the gallery that their true captions make."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from labclip.data.images import Box
from labclip.data.inputs import READERS
from labclip.evaluation.sources import Sources, read_json
from labclip.evaluation.tasks import Choice, Retrieval, Rows

NONE = -1
"""Stands for no caption and for no group."""


@dataclass
class Items:
    """Pictures with the captions to choose from, the true one first.

    Attributes:
        sources: Where pictures and captions are kept.
        image: Picture of each item.
        options: Captions of each item.
        groups: What else is known of each item, by name: for means over groups.
    """

    sources: Sources
    image: list[int] = field(default_factory=list)
    options: list[list[int]] = field(default_factory=list)
    groups: dict[str, list[Hashable]] = field(default_factory=dict)

    def add(self, row: int | None, captions: Sequence[Any], place: str, **groups: Hashable) -> None:
        """Append an item; one whose picture is missing is left out.

        Raises:
            ValueError: If a caption is no text, or a wrong one is the true one.
        """
        if row is None:
            return
        options = [self.sources.captions.row(caption, place) for caption in captions]
        if options[0] in options[1:]:
            raise ValueError(f"{place}: the caption {captions[0]!r} is its own negative. Correct or remove the item.")
        self.image.append(row)
        self.options.append(options)
        for name, group in groups.items():
            self.groups.setdefault(name, []).append(group)

    def __len__(self) -> int:
        return len(self.image)

    @property
    def images(self) -> Rows:
        """Picture of each item, int64 [n]."""
        return np.array(self.image, dtype=np.int64)

    def group(self, name: str) -> Rows:
        """Number of each item's group, int64 [n]; None is `NONE`."""
        return numbered(self.groups.get(name, []))

    def question(self, metrics: Mapping[str, Rows], **further: Any) -> list[Choice]:
        """The question about all items; none where there is no item."""
        return [Choice(self.images, padded(self.options), metrics, **further)] if self.image else []

    def gallery(self, prefix: str = "") -> list[Retrieval]:
        """Retrieval over the pictures with their true captions."""
        pairs = zip(self.image, (options[0] for options in self.options), strict=True)
        return gallery(self.sources, [(image, caption, caption) for image, caption in pairs], prefix)


def numbered(groups: Sequence[Hashable]) -> Rows:
    """A number for each distinct value, in the order of appearance; None is `NONE`."""
    numbers: dict[Hashable, int] = {}
    found = [NONE if group is None else numbers.setdefault(group, len(numbers)) for group in groups]
    return np.array(found, dtype=np.int64)


def padded(options: Sequence[Sequence[int]]) -> Rows:
    """Rows of different lengths as one array, filled up with `NONE`."""
    width = max(map(len, options))
    return np.array([[*row, *[NONE] * (width - len(row))] for row in options], dtype=np.int64)


def gallery(sources: Sources, pairs: Sequence[tuple[int, int, Hashable]], prefix: str = "") -> list[Retrieval]:
    """Retrieval in which every caption has one right picture.

    A picture is kept unless something that is said of it was said of a picture kept before: else a search for a caption
    would have two right answers, of which one counts as wrong.

    Args:
        sources: Where the note about pictures left out goes.
        pairs: A picture, a caption true of it, and what the caption says: captions that say the same have it in common.
        prefix: Before the metrics' names.

    Returns:
        The question; none where there are fewer than two pictures.
    """
    said: dict[int, dict[int, Hashable]] = {}
    for image, caption, meaning in pairs:
        said.setdefault(image, {})[caption] = meaning
    kept: list[int] = []
    taken: set[Hashable] = set()
    for image, captions in said.items():
        if taken.isdisjoint(captions.values()):
            taken.update(captions.values())
            kept.append(image)
    if len(kept) < len(said):
        what = f"Retrieval ({prefix.rstrip('_')})" if prefix else "Retrieval"
        sources.notes.append(f"{what}: {len(kept):,} of {len(said):,} pictures, one for each distinct caption.")
    if len(kept) < 2:
        return []
    texts, places = zip(*((caption, place) for place, image in enumerate(kept) for caption in said[image]), strict=True)
    return [Retrieval(np.array(kept), np.array(texts), np.array(places), prefix)]


def json_items(path: Path) -> Iterator[tuple[str, Any]]:
    """The items of a JSON file that is a list, or an object whose values they are, each with file and position.

    Raises:
        ValueError: If it is neither, or empty.
    """
    return items_in(read_json(path), path)


def items_in(value: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """The same of what a file was found to hold."""
    if not isinstance(value, dict | list):
        raise ValueError(f"{path} holds a {type(value).__name__}, not a list of items.")
    if not value:
        raise ValueError(f"{path} has no item.")
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return ((f"{path} item {key}", item) for key, item in pairs)


def table_rows(path: Path, wanted: Callable[[str], bool] = lambda _: True) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a csv, tsv, jsonl, json or Parquet file, each with file and position.

    Args:
        path: The file; its ending says what it is.
        wanted: Whether a column is of use; Parquet reads no others.

    Raises:
        ValueError: If the ending is another, the file is not sound, or has no row.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None or path.suffix == ".tar":
        known = ", ".join(ending for ending in READERS if ending != ".tar")
        raise ValueError(f"{path} ends in {path.suffix!r}. Known here are {known}.")
    empty = True
    for row in reader(path, wanted):
        if row.problem is not None:
            raise ValueError(f"{path} {row.where} {row.problem}.")
        empty = False
        yield f"{path} {row.where}", row.cells
    if empty:
        raise ValueError(f"{path} has no row.")


def picture_in(sources: Sources, cell: Any, place: str, layout: Layout | None = None) -> int | None:
    """The row of a picture that a cell names, or holds as bytes, as Hugging Face data sets do."""
    if isinstance(cell, dict) and set(cell) <= {"bytes", "path"}:
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return sources.pictures.held(cell, place)
    return layout.picture(cell, place) if layout else sources.picture(cell, place)


class Layout:
    """Where pictures lie in people's folders: the first way that finds a picture is taken for all that follow.

    Args:
        sources: Where the pictures are.
        ways: From a picture's name in the file to its path.
    """

    def __init__(self, sources: Sources, *ways: Callable[[str], str]) -> None:
        self._sources, self._ways = sources, ways
        self._way: Callable[[str], str] | None = None

    def picture(self, name: Any, place: str, *, box: Box | None = None) -> int | None:
        """The row of a picture; arguments and errors as of `Sources.picture`."""
        self._sources.where(name, place)
        if self._way is None:
            exists = self._sources.pictures.exists
            self._way = next((way for way in self._ways if exists(self._sources.where(way(name), place))), None)
        return self._sources.picture((self._way or self._ways[0])(name), place, box=box)


def as_named(name: str) -> str:
    """The name itself."""
    return name


def alone(name: str) -> str:
    """The name without its folders."""
    return PurePosixPath(name).name


def inside(folder: str) -> Callable[[str], str]:
    """The name in a folder."""
    return lambda name: f"{folder}/{name}"


def one_of(name: str, value: Any, allowed: Sequence[str]) -> str:
    """An option's value, checked.

    Raises:
        ValueError: If it is not one of those allowed; all are named.
    """
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}. Pass --option {name}=VALUE with one of {', '.join(allowed)}.")
    return str(value)


def slug(text: Any) -> str:
    """A text as part of a metric's name."""
    return re.sub(r"\W+", "_", str(text).lower()).strip("_")
