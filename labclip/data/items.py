"""Images with their captions and negatives from files of every kind, as one stream of items.

Here is the one order of the names of columns, for every command and function that reads captions.
"""

from __future__ import annotations

import ast
import json
import logging
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

from labclip.data.cleaning import clean as clean_text
from labclip.data.cleaning import is_shuffle
from labclip.data.images import ImageSource
from labclip.data.parquet import parquet_columns
from labclip.data.rows import Cells, find_inputs, read_rows
from labclip.files import path_of
from labclip.messages import NOTE

WORDS = 40
"""Words that a cleaned text keeps, as many as shuffled negatives have."""

CAPTIONS = ("caption", "title", "captions", "sentences", "text")
IMAGES = ("image", "filename", "filepath", "image_path", "file_name")
"""The usual names, those of Hugging Face's datasets among them."""

IDENTIFIERS = ("image_id", "url")
"""Columns that say which rows are of one image, but not where it is."""

_NUMBERED = re.compile(r"negative(?:_(\d+))?")
_NEGATIVES = ("negatives", "neg_caption", "negative_caption")  # ours, NegCLIP's, SugarCrepe's
_LISTS = ("negatives", "neg_caption")
_SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'", ",": "','"}
_EMPTY = "has an empty caption"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """What a row says: an image, its captions, and each caption's negatives; or what is wrong with the row.

    Attributes:
        image: Where the image is, or what identifies it; None where nothing does.
        captions: Captions of the image, none of them empty; none at all where there is a problem.
        negatives: For each caption its negatives, distinct, often none.
        location: File and position, "captions.csv line 7".
        negative_images: For each negative the image that it describes, or None; empty where no column of them is read.
        problem: Why the row, or one of its captions, can't be used, as a sentence goes on after the location: "has an
            empty caption". "" where it can.
    """

    image: ImageSource | None
    captions: tuple[str, ...]
    negatives: tuple[tuple[str, ...], ...]
    location: str
    negative_images: tuple[tuple[ImageSource | None, ...], ...] = ()
    problem: str = ""

    @property
    def name(self) -> str:
        """The image's name; "" where it has none."""
        return self.image.name if self.image else ""

    @property
    def empty(self) -> bool:
        """Whether nothing is wrong but that the caption is empty."""
        return self.problem.startswith(_EMPTY)

    def checked(self) -> Item:
        """The item itself; ValueError with its location where there is a problem."""
        if self.problem:
            raise ValueError(f"{self.location} {self.problem}.")
        return self


def read_items(
    paths: str | Path | Sequence[str | Path],
    *,
    images: str | Path | None = None,
    column: str | None = None,
    image_column: str | None = None,
    negative_columns: Sequence[str] | None = None,
    negative_images: Sequence[str] = (),
    split: Collection[str] | None = None,
    require_image: bool = True,
    clean: bool | None = None,
    seen: Callable[[], object] = lambda: None,
) -> Iterator[Item]:
    r"""Every row of files of captions, in order, as it is read.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "captions.csv"
    ...     _ = path.write_text("image,caption,negative\n1.jpg,a dog on a bed,a bed on a dog\n2.jpg,,\n")
    ...     good, bad = read_items(path)
    >>> good.image.name, good.captions, good.negatives, good.location
    ('1.jpg', ('a dog on a bed',), (('a bed on a dog',),), 'captions.csv line 2')
    >>> bad.location, bad.name, bad.problem
    ('captions.csv line 3', '2.jpg', 'has an empty caption')

    Args:
        paths: Files of captions, as `find_inputs` takes them: csv, tsv, jsonl, ndjson, json (a list of objects, an
            object of them, COCO captions, Karpathy's), Parquet, txt (a caption a line) and WebDataset tars.
        images: The folder, or its URL, that paths of images are relative to; by default the one that each file is in.
        column: The captions'; None takes the first of `CAPTIONS` that a row has. A cell is a text, or a list of texts
            or of Karpathy's sentences.
        image_column: The images'; None takes the first of `IMAGES` that a row has. Where `filename` and `filepath` are
            both there, as in Karpathy's files, the image is `filepath/filename`.
        negative_columns: The negatives'; None takes all that are there of `negative`, `negative_2`, ..., `negatives`,
            `neg_caption`, `negative_caption`.
        negative_images: Those of images that the negatives describe, the first for the first column of negatives, and
            so on.
        split: Rows to take, by their column `split`; None takes all.
        require_image: Whether a row without an image is bad. If not, the columns `IDENTIFIERS` count as well.
        clean: True cleans captions and negatives alike, to 40 words, False takes them as they are. None does too, but
            is an error where a caption that is not clean has a negative that `negatives.shuffle` has cleaned.
        seen: Called once a row, for progress.

    Yields:
        An item a row; where captions of a row are bad, an item with the problem for each, and one with the others if
        there are.

    Raises:
        FileNotFoundError: If there is no such file.
        MissingPackageError: If it is Parquet and pyarrow is not installed.
        ValueError: If a file is malformed or lacks a column, if no row is of the splits asked for, or a fit could tell
            caption and negative by their full stop.
    """
    inputs, told, other_splits, count = find_inputs(paths), "", set[str](), 0
    for path in inputs:
        table = _Table(
            path,
            path.parent if images is None else path_of(images),
            (column,) if column else CAPTIONS,
            (image_column,) if image_column else IMAGES if require_image else (*IMAGES, *IDENTIFIERS),
            None if negative_columns is None else tuple(negative_columns),
            tuple(negative_images),
            require_image,
            clean,
        )
        taken = ""
        for number, (location, cells) in enumerate(read_rows(path, table.wanted(split))):
            if number == 0:
                table.check(list(cells), split)
            if split is not None and cells.get("split") not in split:
                other_splits.add(str(cells.get("split")))
                continue
            taken, count = taken or table.taken(cells), count + 1
            seen()
            yield from table.items(number, location, cells)
        if taken and taken != told:  # of many shards only the first
            _logger.log(NOTE, "%s: %s", path.name, taken)
            told = taken
    if split and not count:
        asked, there = " or ".join(map(repr, split)), ", ".join(sorted(other_splits)[:10]) or "none"
        raise ValueError(f"{', '.join(map(str, inputs))} has no row of split {asked}; it has {there}.")


class _RowError(ValueError):
    """What is wrong with a row, as a sentence goes on after its location."""


@dataclass(frozen=True)
class _Table:
    """One file of captions: which of its columns count, and what its rows say."""

    path: Path
    root: Any  # the folder that paths of images are relative to
    captions: tuple[str, ...]
    images: tuple[str, ...]
    negatives: tuple[str, ...] | None
    negative_images: tuple[str, ...]
    require_image: bool
    clean: bool | None

    def wanted(self, split: Collection[str] | None) -> Callable[[str], bool]:
        """Whether a column is of use; an error if it is a Parquet file that lacks one."""
        named = {*self.captions, *self.images, *self.negative_images, *(["split"] if split else [])}
        if self.path.suffix.lower() == ".parquet":
            texts = parquet_columns(self.path)
            self.check(list(texts), split)
            if not self.require_image and len(self.images) > 1:  # what only identifies an image is a text or a number
                named -= {name for name in IMAGES if not texts.get(name)}
        return lambda name: name in named or name in self._negatives((name,))

    def check(self, names: Sequence[str], split: Collection[str] | None) -> None:
        """Refuse a file that lacks a column."""
        needed = [(self.captions, "column")]
        if self.require_image or len(self.images) == 1:
            needed.append((self.images, "image_column"))
        needed += [((name,), "") for name in (*(self.negatives or ()), *self.negative_images)]
        for several, option in [*needed, *([(("split",), "")] if split else [])]:
            if not set(several) & set(names):
                there = ", ".join(repr(name) for name in names if name) or "none"
                hint = f" Pass {option}=NAME, or column names in the first line." if option else ""
                if len(names) == 1 and self.path.suffix.lower() in (".csv", ".tsv"):
                    usual = "tabs" if self.path.suffix.lower() == ".tsv" else "commas"
                    marks = (mark for sign, mark in _SEPARATORS.items() if sign in names[0])
                    hint = next(
                        (f" Its columns seem to be separated by {mark}: write it with {usual}." for mark in marks), hint
                    )
                either = " or ".join(filter(None, (", ".join(map(repr, several[:-1])), repr(several[-1]))))
                raise ValueError(f"{self.path} has no column {either}; it has {there}.{hint}")

    def taken(self, cells: Cells) -> str:
        """In words the columns that are read of a row."""
        columns = {
            "captions": [self._caption(cells)],
            "images": [name for name in [self._image_cell(cells)[0]] if name],
            "negatives": self._negatives(tuple(cells)),
        }
        return ", ".join(f"{what} from {' and '.join(map(repr, names))}" for what, names in columns.items() if names)

    def _caption(self, cells: Cells) -> str:
        return next((name for name in self.captions if name in cells), self.captions[0])

    def _negatives(self, names: tuple[str, ...]) -> Sequence[str]:
        return _usual_negatives(names) if self.negatives is None else self.negatives

    def items(self, number: int, location: str, cells: Cells) -> Iterator[Item]:
        """What is wrong with a row's captions, and an item with those that are sound."""
        image = None
        try:
            image = self._source(*self._image_cell(cells), number, location)
            if image is None and self.require_image:
                raise _RowError("names no image" if {*self.images} & {*cells} else _lacks(self.images[0], cells))
            name = self._caption(cells)
            if name not in cells:
                raise _RowError(_lacks(name, cells))
            several = _listed(cells[name])
            captions = [cells[name]] if several is None else several
            if not captions:
                raise _RowError("has an empty list of captions")
            negatives = self._negatives_of(cells, None if several is None else len(several), number, location)
        except _RowError as error:
            yield Item(image, (), (), location, problem=str(error))
            return
        sound: list[tuple[str, dict[str, ImageSource | None]]] = []
        for caption, mine in zip(captions, negatives, strict=True):
            try:
                sound.append(self._worded(caption, mine, location))
            except _RowError as error:
                yield Item(image, (), (), location, problem=str(error))
        if sound:
            texts, of_texts = zip(*sound, strict=True)
            shown = tuple(tuple(mine.values()) for mine in of_texts) if self.negative_images else ()
            yield Item(image, texts, tuple(map(tuple, of_texts)), location, shown)

    def _image_cell(self, cells: Cells) -> tuple[str, Any]:
        """The column and the cell of the image, the first that is not empty; of `filename` and `filepath` one path."""
        for name in self.images:
            cell, folder = cells.get(name), cells.get("filepath")
            if name == "filename" and len(self.images) > 1 and folder and isinstance(cell, str):
                cell = folder if PurePosixPath(folder).name == cell else f"{folder}/{cell}"
            if not _is_empty(cell):
                return name, str(cell) if isinstance(cell, int) and not self.require_image else cell
        return "", None

    def _source(self, column: str, cell: Any, number: int, location: str) -> ImageSource | None:
        """Where the image of a cell is; None of an empty one."""
        name: Any = cell
        if isinstance(cell, dict) and set(cell) <= {"bytes", "path"}:  # as Hugging Face datasets keep images
            name, cell = cell.get("path"), cell.get("bytes") or cell.get("path")
        if isinstance(cell, bytes):
            name = name if isinstance(name, str) else f"row {number + 1}"
            return ImageSource(name, self.path, start=number, column=column, data=cell, location=location)
        if _is_empty(cell) or isinstance(cell, ImageSource):
            return cell or None
        if not isinstance(cell, str):
            raise _RowError(f"has an image that is a {type(cell).__name__}, not a path")
        return ImageSource(cell, self.root / cell if self.require_image else None, location=location)

    def _negatives_of(
        self, cells: Cells, captions: int | None, number: int, location: str
    ) -> list[list[tuple[Any, ImageSource | None]]]:
        """For each caption its negatives, each with the image that it describes, None where there is none.

        `captions` is how many a list has, None for one caption that is not a list.
        """
        negatives: list[list[tuple[Any, ImageSource | None]]] = [[] for _ in range(captions or 1)]
        for column, images in zip_longest(self._negatives(tuple(cells)), self.negative_images):
            if column is None and not _is_empty(cells.get(images)):
                raise _RowError(f"names an image in {images!r}, but lacks the column of negatives that it belongs to")
            texts, shown = _by_caption(cells, column, captions), _by_caption(cells, images, captions)
            for mine, several, its in zip(negatives, texts, shown, strict=True):
                if all(map(_is_empty, its)):
                    its = [None] * len(several)
                elif len(its) != len(several):
                    count = f"has {len(several)} in {column!r} but {len(its)} in {images!r}"
                    raise _RowError(f"{count}; name an image for each negative, or none")
                elif isinstance(cells[images], list) and not all(isinstance(cell, str | None) for cell in its):
                    raise _RowError(f"has a list in {images!r} of images that are not paths")
                pairs = zip(several, its, strict=True)
                mine += [
                    (text, self._source(images, cell, number, location)) for text, cell in pairs if not _is_empty(text)
                ]
        return negatives

    def _worded(
        self, caption: Any, negatives: Sequence[tuple[Any, ImageSource | None]], location: str
    ) -> tuple[str, dict[str, ImageSource | None]]:
        """A caption and its negatives, each text once with the first image that it has.

        All are in one form, so that nothing but what they say tells caption and negative apart.
        """
        if isinstance(caption, dict) and "raw" in caption:  # one of Karpathy's sentences
            caption = caption["raw"]
        if _is_empty(caption):
            raise _RowError(_EMPTY)
        _check_text(caption, "a caption")
        for text, _ in negatives:
            _check_text(text, "a negative")
        if self.clean:
            raw, caption = caption, clean_text(caption, WORDS)
            if not caption.strip():
                raise _RowError(f"{_EMPTY}: cleaning leaves nothing of {raw!r}")
            negatives = [(clean_text(text, WORDS), image) for text, image in negatives]
        elif self.clean is None and negatives:
            _refuse_mixed(caption, negatives, location)
        distinct: dict[str, ImageSource | None] = {}
        for text, image in negatives:
            if text.strip():
                distinct[text] = distinct.get(text) or image
        return caption, distinct


def _by_caption(cells: Cells, column: str | None, captions: int | None) -> list[list[Any]]:
    """What a column has for each of the captions that a list has; None is one caption that is not a list."""
    value = cells.get(column or "") if column else None
    values = _listed(value)
    if values is None and column in _LISTS and isinstance(value, str) and value.startswith("["):
        raise _RowError(f"has a {column} that is neither a text nor a list of texts")
    if captions is None:
        return [[value] if values is None else values]
    if values is not None and len(values) == captions:
        return [[one] if (nested := _listed(one)) is None else nested for one in values]
    if not _is_empty(value):
        raise _RowError(f"has {captions} captions, so {column!r} must be a list of as many, one for each")
    return [[] for _ in range(captions)]


@lru_cache(1024)
def _usual_negatives(names: tuple[str, ...]) -> list[str]:
    """Those of some columns that hold negatives by their names, numbered ones first and in order."""
    numbered = [(int(found[1] or 1), name) for name in names if name and (found := _NUMBERED.fullmatch(name))]
    return [name for _, name in sorted(numbered)] + [name for name in _NEGATIVES if name in names]


def _listed(cell: Any) -> list[Any] | None:
    """A cell that is a list, or is one of texts written out as Python or JSON write it; None for any other."""
    if isinstance(cell, list):
        return cell
    if isinstance(cell, str) and cell.startswith("[") and cell.endswith("]"):
        for parse in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                value = parse(cell)
                if isinstance(value, list) and all(one is None or isinstance(one, str | list) for one in value):
                    return value
    return None


def _lacks(name: str, cells: Cells) -> str:
    return f"has no {name}; it has {', '.join(filter(None, cells)) or 'nothing'}"


def _is_empty(cell: Any) -> bool:
    """Whether a cell is missing, or a text of nothing but space."""
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _check_text(text: Any, what: str) -> None:
    """Refuse what no model can read."""
    if not isinstance(text, str):
        raise _RowError(f"has {what} that is a {type(text).__name__}, not a text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _RowError(f"holds {text[:40]!r}, which is not valid Unicode") from None


def _refuse_mixed(caption: str, negatives: Sequence[tuple[str, Any]], location: str) -> None:
    if (cleaned := clean_text(caption, WORDS)) == caption:
        return
    for negative, _ in negatives:
        if clean_text(negative, WORDS) == negative and is_shuffle(cleaned, negative):
            raise ValueError(
                f"{location}: the caption {caption!r} is not cleaned, but its negative {negative!r} is (lower case, no "
                f"full stop, {WORDS} words), so a fit would learn that difference instead of the order of words. Pass "
                "clean=True to clean both, or clean=False to keep them so; or write the file with "
                "labclip negatives --clean."
            )
