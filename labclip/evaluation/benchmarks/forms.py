"""Items of a file that has images and captions in named fields: which fields those are is data, in benchmarks.json."""

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
    """Where the files of a benchmark have the images and captions of an item, and what its metrics are means over.

    A field is a name, or names and positions in lists with dots between, such as "1.POS.0".

    Attributes:
        files: Each file by the names that it may have, with `{split}` for the split; the first that is there is read,
            and of a Parquet file all its shards.
        images: The field of the image, or those of both images.
        captions: The fields of the captions, the true ones first, or the field of a list of captions.
        ways: Where people have an image, as `Sources.image` takes it, by how its name begins.
        splits: Those that there are.
        true: How many captions are true.
        answer: The field of the number of the true caption; "" where it is the first.
        box: Fields of left, top, width and height of the part of the image that counts.
        retrieval: Whether retrieval among all images and true captions is measured too.
        kinds: Beginnings of file names that have a mean together.
        tags: Fields that say of which kind an item is, each with the form of that kind's name; of a field that is a
            path its first folder counts.
        votes: The field of how many annotators confirmed the item, or "".
        group: The field of what `macro` is the mean over, or of the kind of an item.
        least: Items that a group must have to count in `macro`.
        left_out: Groups that a second macro mean, `macro_no_symmetric`, leaves out.
        kind: What a file of scenes holds, as `SceneFile` calls it.
        places: What the authors of What'sUp group by, by what the true caption holds; "" is any other, and with none
            it is the caption's last word.
    """

    files: Sequence[Sequence[str]] = ()
    images: Sequence[str] = ("image_0", "image_1")
    captions: Sequence[str] | str = ("caption_0", "caption_1")
    ways: Mapping[str, Sequence[str]] = field(default_factory=lambda: {"": ["{path}", "images/{path}"]})
    splits: Sequence[str] = ("",)
    true: int = 1
    answer: str = ""
    box: Sequence[str] = ()
    retrieval: bool = False
    kinds: Sequence[str] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    votes: str = ""
    group: str = ""
    least: int = 1
    left_out: Sequence[str] = ()
    kind: str = ""
    places: Mapping[str, str] = field(default_factory=dict)


class Reader:
    """Reads the entries of a form's files; `add` makes an item of one."""

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
            for at in ("", "data/", "*/"):
                shards += sorted(folder.glob(f"{at}{names[0].removesuffix('.parquet')}-*.parquet"))
        for path in dict.fromkeys(shards or [self.sources.find_file(*names)]):
            yield 0, path

    def _rows(self, path: Path) -> Iterator[tuple[str, Any]]:
        """The rows of a file; images inside a Parquet file stay there until they are encoded."""
        columns = parquet_columns(path) if path.suffix.lower() == ".parquet" else {}
        held = [name for name in self.form.images if not columns.get(name, True)]
        for row, (location, cells) in enumerate(read_rows(path, lambda name: name not in held)):
            inside = {name: ImageSource(f"{location} {name}", path, start=row, column=name) for name in held}
            yield location, cells | inside if inside else cells

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
        name = in_folder(self.sources, str(value) if isinstance(value, int) else value)
        ways = next(ways for start, ways in self.form.ways.items() if str(name).startswith(start))
        row = self.sources.image(name, location, ways, box=box)
        source = None if row is None else self.sources.image_sources[row]
        if source is not None and source.data is None and source.file is not None and source.file.suffix == ".npy":
            source.data = _pixels(source.file)
        return row


def _pixels(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """EqBen's frames of YouCook2, whose colours stand blue first, as OpenCV has them."""
    try:
        return np.ascontiguousarray(np.load(path)[:, :, ::-1])
    except (EOFError, IndexError, ValueError) as error:
        raise ValueError(f"{path} holds no pixels, uint8 [height, width, 3] ({error}). Fetch it again.") from error


def cell(entry: Any, path: str, location: str) -> Any:
    """The value of a field, as `Form` has it; ValueError if an object lacks it."""
    for key in path.split("."):
        entry = entry[int(key)] if isinstance(entry, list) else fields(entry, (key,), location)[0]
    return entry


def in_folder(sources: Sources, name: Any) -> Any:
    """An image's name; of an absolute path on the authors' machine the file's name, if there is a folder of images."""
    folder = sources.images
    if folder is None or not isinstance(name, str) or not os.path.isabs(name):
        return name
    return name if folder.absolute() in PurePath(name).parents else PurePath(name).name


def one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    """An option's value, checked to be one of those allowed."""
    if value not in allowed:
        some = ", ".join(allowed)
        raise ValueError(f'{name} is {value!r}. Pass options={{"{name}": VALUE}} with one of {some}.')
    return value
