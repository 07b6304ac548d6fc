"""A reader of files with images and captions in named fields; benchmarks.json says which fields each benchmark has."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from labclip.data.images import ImageSource
from labclip.data.rows import fields, read_rows
from labclip.evaluation.sources import Items, Sources
from labclip.packages import parquet_columns


@dataclass(frozen=True)
class Form:
    """The files and fields in which a benchmark keeps its images and captions, and the groups that its metrics average.

    A field is a name, or names and list positions joined by dots, such as "1.POS.0".
    """

    # For each file its possible names, with `{split}`. The first that exists is read; of a Parquet file all shards.
    files: Sequence[Sequence[str]] = ()
    images: Sequence[str] = ("image_0", "image_1")  # the field of the image, or those of both images
    captions: Sequence[str] | str = ("caption_0", "caption_1")  # fields, the true captions first; or that of a list
    # Paths of images as in `Sources.image`, by the start of an image's name.
    patterns: Mapping[str, Sequence[str]] = field(default_factory=lambda: {"": ["{path}", "images/{path}"]})
    splits: Sequence[str] = ("",)
    true: int = 1  # number of captions that are true
    answer: str = ""  # the field with the number of the true caption; "" if it is the first
    box: Sequence[str] = ()  # fields of left, top, width and height of the part of the image that counts
    retrieval: bool = False  # whether retrieval among all images and true captions is measured too
    kinds: Sequence[str] = ()  # starts of file names; the files with the same start have a mean of their own
    # Fields with the kind of an item, or a path whose first folder is the kind, each with the pattern of its name.
    tags: Mapping[str, str] = field(default_factory=dict)
    votes: str = ""  # the field with the number of annotators who confirmed the item
    group: str = ""  # the field with the group that `macro` averages, or with the kind of an item
    least: int = 1  # number of items that a group must have to count in `macro`
    symmetric: Sequence[str] = ()  # groups that a second macro mean, `macro_no_symmetric`, leaves out
    kind: str = ""  # what a file of scenes holds: `SceneFile.kind`
    # Groups of What'sUp, by a part of the true caption; "" is any other. Without any it is the caption's last word.
    prepositions: Mapping[str, str] = field(default_factory=dict)


class Reader:
    """Iterates over the entries of a form's files; `add` makes an entry an item."""

    def __init__(self, sources: Sources, form: Form, *, split: str = "") -> None:
        self.sources, self.form, self.items = sources, form, Items(sources, form.true)
        self._files = [[name.format(split=split) for name in names] for names in form.files]

    def __iter__(self) -> Iterator[tuple[int, str, Any]]:
        """The number of the file, the location and the content of each entry."""
        for number, path in self._paths():
            for location, entry in self._rows(path):
                yield number, location, entry

    def _paths(self) -> Iterator[tuple[int, Path]]:
        folder, data = self.sources.folder, self.sources.data
        if len(self._files) > 1:
            yield from enumerate([self.sources.find_file(*names, or_data=False) for names in self._files])
            return
        names, shards = self._files[0], list[Path]()
        if names[0].endswith(".parquet") and data == folder:
            for subfolder in ("", "data/", "*/"):
                shards += sorted(folder.glob(f"{subfolder}{names[0].removesuffix('.parquet')}-*.parquet"))
        for path in dict.fromkeys(shards or [self.sources.find_file(*names)]):
            yield 0, path

    def _rows(self, path: Path) -> Iterator[tuple[str, Any]]:
        """The rows of a file. Images in a Parquet file are not read yet; their cells are `ImageSource`s."""
        holds_names = parquet_columns(path) if path.suffix.lower() == ".parquet" else {}
        embedded = [name for name in self.form.images if not holds_names.get(name, True)]
        columns = [name for name in holds_names if name not in embedded]
        for row, (location, cells) in enumerate(read_rows(path, columns)):
            images = {name: ImageSource(f"{location} {name}", path, start=row, column=name) for name in embedded}
            yield location, cells | images if images else cells

    def add(self, entry: Any, location: str, /, **groups: Hashable) -> None:
        """Append an item with the image, or both images, and the captions of an entry."""
        box = tuple(cell(entry, name, location) for name in self.form.box)
        rows = [self._image(cell(entry, name, location), location, box or None) for name in self.form.images]
        row = None if None in rows else rows if len(rows) > 1 else rows[0]
        self.items.add(row, self.captions(entry, location), location, **groups)

    def captions(self, entry: Any, location: str) -> list[Any]:
        """The captions of an entry, the true ones first."""
        form = self.form
        if isinstance(form.captions, str):
            return list(cell(entry, form.captions, location))
        texts = [cell(entry, name, location) for name in form.captions]
        if form.answer:
            answer = str(cell(entry, form.answer, location)).removesuffix(".0")
            if not answer.isdecimal() or int(answer) >= len(texts):
                raise ValueError(f"{location}: {form.answer} is {answer!r}, not a number from 0 to {len(texts) - 1}.")
            texts.insert(0, texts.pop(int(answer)))
        # EqBen has lists of texts for some images, of which its authors take the first.
        return [text[0] if isinstance(text, list) and text else text for text in texts]

    def _image(self, value: Any, location: str, box: Any) -> int | None:
        if isinstance(value, ImageSource):
            return self.sources.add(value)
        name = image_name(self.sources, str(value) if isinstance(value, int) else value)
        patterns = next(patterns for start, patterns in self.form.patterns.items() if str(name).startswith(start))
        row = self.sources.image(name, location, patterns, box=box)
        source = None if row is None else self.sources.image_sources[row]
        if source is not None and source.data is None and source.file is not None and source.file.suffix == ".npy":
            source.data = _pixels(source.file)
        return row


def _pixels(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """EqBen's frames of YouCook2, whose colours are in OpenCV's order, blue first."""
    try:
        return np.ascontiguousarray(np.load(path)[:, :, ::-1])
    except (EOFError, IndexError, ValueError) as error:
        raise ValueError(f"{path} holds no pixels, uint8 [height, width, 3] ({error}). Fetch it again.") from error


def cell(entry: Any, path: str, location: str) -> Any:
    """The value of a field, written as in `Form`; ValueError if it is missing."""
    for key in path.split("."):
        entry = entry[int(key)] if isinstance(entry, list) else fields(entry, (key,), location)[0]
    return entry


def image_name(sources: Sources, name: Any) -> Any:
    """An image's name. If it is an absolute path on the authors' machine, its last part, to be found in `images`."""
    folder = sources.images
    if folder is None or not isinstance(name, str) or not os.path.isabs(name):
        return name
    return name if folder.absolute() in PurePath(name).parents else PurePath(name).name
