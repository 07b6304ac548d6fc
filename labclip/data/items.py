"""Read rows of any format as a stream of `Item`s: an image, its captions and their negatives."""

from __future__ import annotations

import ast
import itertools
import json
import logging
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from labclip.checks import NOTE
from labclip.data.cleaning import WORD
from labclip.data.cleaning import clean as clean_text
from labclip.data.images import ImageSource
from labclip.data.rows import Cells, find_inputs, read_rows
from labclip.files import path_of
from labclip.packages import parquet_columns

WORDS = 40
"""Number of words that a cleaned text keeps, the same as in shuffled negatives."""

CAPTIONS = ("caption", "title", "captions", "sentences", "text")
IMAGES = ("image", "filename", "filepath", "image_path", "file_name")
"""Default column names, for every command and function; the first that exists is read."""

IDENTIFIERS = ("image_id", "url")
"""Columns that tell which rows share an image, but not where its file is."""

PARTS = ("parts", "part_negatives", "part_kinds", "keywords")
"""The columns of parts and keywords. Each cell is a list."""

_NUMBERED = re.compile(r"negative(?:_(\d+))?")
_NEGATIVES = ("negatives", "neg_caption", "negative_caption")  # labclip's, NegCLIP's, SugarCrepe's
_EMPTY = "has an empty caption"
_logger = logging.getLogger(__name__)


class Kind(IntEnum):
    """The kind of a text that describes an image."""

    CAPTION = 0
    PART = 1
    KEYWORDS = 2  # all keywords of a caption as one text: "man red shirt"


class Part(NamedTuple):
    """A noun phrase of a caption, "a red shirt", and its negative with a modifier that is wrong for the image.

    `kind` is "swap" if the caption uses the wrong modifier for another noun, "foil" if no caption of the image uses it.
    No caption of the image says the negative.
    """

    text: str
    negative: str
    kind: Literal["swap", "foil"]


@dataclass(frozen=True)
class Item:
    """A row of a file: an image, its captions, and the negatives of each caption; or the problem of the row.

    Attributes:
        image: Where the image is, or what identifies it; None if the row has neither.
        captions: Captions of the image, each of them non-empty. Empty if there is a problem.
        negatives: For each caption its distinct negatives, often none.
        location: File and position, "captions.csv line 7".
        negative_images: For each negative the image that it describes, or None. Empty if no such column is read.
        parts: Parts of the captions, each with its negative, as `labclip.negatives.add_parts` writes them.
        keywords: Keywords of the captions, from the same row. They have no negatives.
        problem: Why the row can't be used, to be appended to the location: "has an empty caption". "" if it can be.
    """

    image: ImageSource | None
    captions: tuple[str, ...]
    negatives: tuple[tuple[str, ...], ...]
    location: str
    negative_images: tuple[tuple[ImageSource | None, ...], ...] = ()
    parts: tuple[Part, ...] = ()
    keywords: tuple[str, ...] = ()
    problem: str = ""

    @property
    def name(self) -> str:
        """The image's name; "" if the row has no image."""
        return self.image.name if self.image else ""

    @property
    def image_key(self) -> bytes | str:
        """Equal for rows of one image. A row whose image is unknown has one of its own."""
        return self.image.key if self.image else self.location

    @property
    def empty(self) -> bool:
        """Whether the only problem is a missing caption."""
        return self.problem.startswith(_EMPTY)

    def checked(self) -> Item:
        """The item itself; ValueError with its location if it has a problem."""
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
) -> Iterator[Item]:
    r"""Read files of captions row by row, in order. Arguments not described here are those of `labclip.embed`.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "captions.csv"
    ...     _ = path.write_text("image,caption,negative\n1.jpg,a dog on a bed,a bed on a dog\n2.jpg,,\n")
    ...     good, bad = read_items(path)
    >>> good.image.name, good.captions, good.negatives, good.location
    ('1.jpg', ('a dog on a bed',), (('a bed on a dog',),), 'captions.csv line 2')
    >>> bad.location, bad.name, bad.problem
    ('captions.csv line 3', '2.jpg', 'has an empty caption')

    By default `column` is the first of `CAPTIONS` that a row has. Its cell is a text, a list of texts, or a list of
    Karpathy's sentences. By default `image_column` is the first of `IMAGES`; a row with both `filename` and `filepath`
    means `filepath/filename`. With `require_image` a row without an image has a problem. Otherwise images need not
    exist, and the columns `IDENTIFIERS` identify them too.

    Raises:
        FileNotFoundError: If there is no such file.
        MissingPackageError: If it is Parquet and pyarrow is not installed.
        ValueError: If a file is malformed or lacks a column, if no row has one of the requested splits, or if a fit
            could tell a caption from its negative by the full stop.
    """
    inputs, logged_columns, other_splits, count = find_inputs(paths), "", set[str](), 0
    caption_columns = (column,) if column else CAPTIONS
    image_columns = (image_column,) if image_column else IMAGES if require_image else (*IMAGES, *IDENTIFIERS)
    required = [*(negative_columns or ()), *negative_images, *(["split"] if split else [])]
    for path in inputs:
        root = path.parent if images is None else path_of(images)
        table = _Table(root, caption_columns, image_columns, negative_columns, negative_images, require_image, clean)
        used_columns = ""
        for location, cells in read_rows(path, table.columns_to_read(path, required)):
            if not isinstance(cells, dict):
                raise ValueError(f"{location} is a {type(cells).__name__}, not an object with columns.")
            if not used_columns:
                table.check(path, cells, required)
                used_columns = table.used_columns(cells)
            if split and cells.get("split") not in split:
                other_splits.add(str(cells.get("split")))
                continue
            count += 1
            yield table.item(location, cells)
        if used_columns not in ("", logged_columns):  # shards with the same columns are logged once
            _logger.log(NOTE, "%s: %s", path.name, used_columns)
            logged_columns = used_columns
    if split and not count:
        others = ", ".join(sorted(other_splits)[:10]) or "none"
        raise ValueError(f"{inputs[0]} has no row of split {' or '.join(map(repr, split))}; it has {others}.")


class _RowError(ValueError):
    """The problem of a row, to be appended to its location."""


@dataclass(frozen=True)
class _Table:
    """Which columns of a file are read, and how a row becomes an `Item`."""

    root: Any  # the folder that image paths are relative to
    caption_columns: Sequence[str]
    image_columns: Sequence[str]
    negative_columns: Sequence[str] | None  # None: the default names that a row has
    negative_images: Sequence[str]
    require_image: bool
    clean: bool | None

    def columns_to_read(self, path: Path, required: Sequence[str]) -> list[str] | None:
        """The columns of a Parquet file that are needed, ValueError if it lacks one; None for another format."""
        if path.suffix.lower() != ".parquet":
            return None
        columns = parquet_columns(path)
        self.check(path, columns, required)
        names = {*self.caption_columns, *self.image_columns, *required, *PARTS, *self._negative_columns(tuple(columns))}
        if not self.require_image and len(self.image_columns) > 1:  # only a text or a number identifies an image
            names -= {name for name in IMAGES if not columns.get(name)}
        return [name for name in columns if name in names]

    def check(self, path: Path, columns: Collection[str], required: Sequence[str]) -> None:
        """Refuse a file that lacks a column."""
        image_columns = [self.image_columns] if self.require_image or len(self.image_columns) == 1 else []
        for names in (self.caption_columns, *image_columns, *([name] for name in required)):
            if not {*names} & {*columns}:
                option = {self.caption_columns: "column", self.image_columns: "image_column"}.get(tuple(names))
                hint = f" Pass {option}=NAME, or column names in the first line." if option else ""
                raise ValueError(f"{path} {_missing_column(names, columns)}.{hint}")

    def used_columns(self, cells: Cells) -> str:
        """The columns that are read from a row, in words."""
        used = {
            "captions": [name for name in self.caption_columns if name in cells][:1],
            "images": list(filter(None, [self._image_cell(cells)[0]])),
            "negatives": self._negative_columns(tuple(cells)),
        }
        return ", ".join(f"{noun} from {' and '.join(map(repr, names))}" for noun, names in used.items() if names)

    def item(self, location: str, cells: Cells) -> Item:
        """The item of a row, or an item that states the row's problem."""
        image = None
        try:
            image = self._source(self._image_cell(cells)[1], location)
            if image is None and self.require_image:
                has_column = {*self.image_columns} & {*cells}
                raise _RowError("names no image" if has_column else _missing_column(self.image_columns, cells))
            name = next((name for name in self.caption_columns if name in cells), None)
            if name is None:
                raise _RowError(_missing_column(self.caption_columns, cells))
            caption_list = _parse_list(cells[name])
            texts = [cells[name]] if caption_list is None else caption_list
            # Karpathy's sentences are objects with a text in "raw".
            texts = [cell.get("raw", cell) if isinstance(cell, dict) else cell for cell in texts]
            if not texts or any(map(_is_empty, texts)):
                raise _RowError(_EMPTY if len(texts) == 1 else "has an empty list of captions, or an empty one in it")
            captions = tuple(map(self._text, texts))
            if "" in captions:
                raise _RowError(f"{_EMPTY}: cleaning leaves nothing of {texts[captions.index('')]!r}")
            negatives = self._negatives(cells, None if caption_list is None else len(captions), location)
            parts, keywords = _parts(cells)
        except _RowError as error:
            return Item(image, (), (), location, problem=str(error))
        if self.clean is None:
            for caption, image_of_negative in zip(captions, negatives, strict=True):
                _refuse_mixed(caption, image_of_negative, location)
        negative_images = tuple(tuple(row.values()) for row in negatives) if self.negative_images else ()
        return Item(image, captions, tuple(map(tuple, negatives)), location, negative_images, parts, keywords)

    def _text(self, cell: Any) -> str:
        """A caption or negative. All are cleaned or none, so that only their words tell them apart."""
        return clean_text(_check_text(cell), WORDS) if self.clean else _check_text(cell)

    def _image_cell(self, cells: Cells) -> tuple[str, Any]:
        """Column and value of the first image cell that is not empty; `filename` and `filepath` become one path."""
        for name in self.image_columns:
            cell, folder = cells.get(name), cells.get("filepath")
            if name == "filename" and len(self.image_columns) > 1 and folder and isinstance(cell, str):
                cell = folder if PurePosixPath(folder).name == cell else f"{folder}/{cell}"
            if not _is_empty(cell):
                return name, str(cell) if isinstance(cell, int) and not self.require_image else cell
        return "", None

    def _source(self, cell: Any, location: str) -> ImageSource | None:
        """The image that a cell names; None for an empty cell."""
        if _is_empty(cell) or isinstance(cell, ImageSource):
            return cell or None
        if not isinstance(cell, str):
            raise _RowError(f"has an image that is a {type(cell).__name__}, not a path")
        return ImageSource(cell, self.root / cell if self.require_image else None, location=location)

    def _negative_columns(self, names: tuple[str, ...]) -> Sequence[str]:
        """The columns of negatives among a row's columns."""
        return _default_negative_columns(names) if self.negative_columns is None else self.negative_columns

    def _negatives(self, cells: Cells, n_captions: int | None, location: str) -> list[dict[str, ImageSource | None]]:
        """For each caption its distinct negatives with the images they describe; `n_captions` as in `_by_caption`."""
        negatives: list[dict[str, ImageSource | None]] = [{} for _ in range(n_captions or 1)]
        for column, image_column in itertools.zip_longest(self._negative_columns(tuple(cells)), self.negative_images):
            if column is None and not _is_empty(cells.get(image_column)):
                raise _RowError(f"names an image in {image_column!r}, but has no column of negatives to go with it")
            all_texts = _by_caption(cells, column, n_captions)
            all_images = _by_caption(cells, image_column, n_captions)
            for image_of_negative, texts, images in zip(negatives, all_texts, all_images, strict=True):
                if all(map(_is_empty, images)):
                    images = [None] * len(texts)
                elif len(images) != len(texts):
                    counts = f"has {len(texts)} in {column!r} but {len(images)} in {image_column!r}"
                    raise _RowError(f"{counts}; name an image for each negative, or none")
                for cell, image in zip(texts, images, strict=True):
                    if not _is_empty(cell) and (text := self._text(cell)):
                        image_of_negative[text] = image_of_negative.get(text) or self._source(image, location)
        return negatives


def _missing_column(names: Sequence[str], columns: Collection[str]) -> str:
    """Says that none of `names` is among the columns."""
    expected = " or ".join(filter(None, (", ".join(map(repr, names[:-1])), repr(names[-1]))))
    present = ", ".join(repr(name) for name in columns if name) or "none"
    return f"has no column {expected}; it has {present}{', so separate columns with commas' if ';' in present else ''}"


def _parts(cells: Cells) -> tuple[tuple[Part, ...], tuple[str, ...]]:
    """The parts and the keywords of a row; both empty if its file has none."""
    if "part_kinds" not in cells:
        return (), ()
    *columns, keywords = (_parse_list(cells.get(name)) or [] for name in PARTS)
    if len(set(map(len, columns))) > 1:
        raise _RowError(f"has lists of different lengths in {', '.join(PARTS[:3])}")
    for text in itertools.chain(*columns, keywords):
        _check_text(text)
    return tuple(map(Part, *columns)), tuple(keywords)


def _by_caption(cells: Cells, column: str | None, n_captions: int | None) -> list[list[Any]]:
    """The values of a column for each of the `n_captions` captions in a list; None means one caption without a list."""
    value = None if column is None else cells.get(column)
    values = _parse_list(value)
    if values is None and column in _NEGATIVES[:2] and isinstance(value, str) and value.startswith("["):
        raise _RowError(f"has a {column} that is neither a text nor a list of texts")
    if n_captions is None:
        return [[value] if values is None else values]
    if values is not None and len(values) == n_captions:
        return [[cell] if (nested := _parse_list(cell)) is None else nested for cell in values]
    if not _is_empty(value):
        raise _RowError(f"has {n_captions} captions, so {column!r} must be a list of {n_captions}, one for each")
    return [[] for _ in range(n_captions)]


@lru_cache(1024)
def _default_negative_columns(names: tuple[str, ...]) -> list[str]:
    """The columns whose names say that they hold negatives: first the numbered ones, in order."""
    numbered = [(int(match[1] or 1), name) for name in names if name and (match := _NUMBERED.fullmatch(name))]
    return [name for _, name in sorted(numbered)] + [name for name in _NEGATIVES if name in names]


def _parse_list(cell: Any) -> list[Any] | None:
    """The cell as a list if it is one, or the text of a list of texts in Python or JSON syntax; else None."""
    if isinstance(cell, list):
        return cell
    if isinstance(cell, str) and cell.startswith("[") and cell.endswith("]"):
        for parse in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                value = parse(cell)
                if isinstance(value, list) and all(cell is None or isinstance(cell, str | list) for cell in value):
                    return value
    return None


def _is_empty(cell: Any) -> bool:
    """Whether a cell is missing or blank."""
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _check_text(text: Any) -> str:
    """The text itself, if it is a valid string."""
    if not isinstance(text, str):
        raise _RowError(f"has a {type(text).__name__} where a text should be")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _RowError(f"holds {text[:40]!r}, which is not valid Unicode") from None
    return text


def _refuse_mixed(caption: str, negatives: Collection[str], location: str) -> None:
    """Refuse a caption that is not cleaned with a shuffled negative, which is, and has the same words."""
    if not negatives or (cleaned := clean_text(caption, WORDS)) == caption:
        return
    for negative in negatives:
        if clean_text(negative, WORDS) != negative:
            continue
        words, shuffled = WORD.findall(cleaned), WORD.findall(negative)
        if shuffled != words and sorted(shuffled) == sorted(words):
            raise ValueError(
                f"{location}: the caption {caption!r} is not cleaned, but its negative {negative!r} is (lower case, no "
                f"full stop, {WORDS} words), so a fit would learn that difference instead of the word order. Pass "
                "clean=True to clean both, or clean=False to keep both as they are."
            )
