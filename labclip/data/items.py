"""Images with their captions and negatives from files of every kind, as one stream of items.

Here is the one order of the names of columns, for every command and function that reads captions.
"""

from __future__ import annotations

import ast
import itertools
import json
import logging
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from labclip.checks import NOTE
from labclip.data.cleaning import clean as clean_text
from labclip.data.cleaning import is_shuffle
from labclip.data.images import ImageSource
from labclip.data.rows import Cells, find_inputs, read_rows
from labclip.files import path_of
from labclip.packages import parquet_columns

WORDS = 40
"""Words that a cleaned text keeps, as many as shuffled negatives have."""

CAPTIONS = ("caption", "title", "captions", "sentences", "text")
IMAGES = ("image", "filename", "filepath", "image_path", "file_name")
"""The usual names, those of Hugging Face's datasets among them."""

IDENTIFIERS = ("image_id", "url")
"""Columns that say which rows are of one image, but not where it is."""

PARTS = ("parts", "part_negatives", "part_kinds", "keywords")
"""The columns of parts and keywords, each cell a list."""

_NUMBERED = re.compile(r"negative(?:_(\d+))?")
_NEGATIVES = ("negatives", "neg_caption", "negative_caption")  # ours, NegCLIP's, SugarCrepe's
_EMPTY = "has an empty caption"
_logger = logging.getLogger(__name__)


class Kind(IntEnum):
    """What a text of an image is."""

    CAPTION = 0
    PART = 1
    KEYWORDS = 2  # of a caption, as one text: "man red shirt"


class Part(NamedTuple):
    """A noun phrase of a caption, "a red shirt", and the same with a modifier that is wrong for the image.

    `negative` is never true by any caption of the image. `kind` is "swap" if the wrong modifier belongs to another noun
    of the caption, "foil" if no caption of the image has it.
    """

    text: str
    negative: str
    kind: Literal["swap", "foil"]


@dataclass(frozen=True)
class Item:
    """A row of a file: an image, its captions, and the negatives of each caption; or what is wrong with the row.

    Attributes:
        image: Where the image is, or what identifies it; None where nothing does.
        captions: Captions of the image, none of them empty; none at all where there is a problem.
        negatives: For each caption its negatives, distinct, often none.
        location: File and position, "captions.csv line 7".
        negative_images: For each negative the image that it describes, or None; empty where no column of them is read.
        parts: Parts of the captions with a wrong one of each, as `labclip.negatives.add_parts` writes them.
        keywords: Words of the captions, written beside them; they have no negative.
        problem: Why the row can't be used, as the location's sentence goes on: "has an empty caption". "" where it can.
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
        """The image's name; "" where it has none."""
        return self.image.name if self.image else ""

    @property
    def empty(self) -> bool:
        """Whether nothing is wrong but that the row has no caption."""
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
) -> Iterator[Item]:
    r"""Every row of files of captions, in order, as it is read. Arguments not told here are those of `labclip.embed`.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "captions.csv"
    ...     _ = path.write_text("image,caption,negative\n1.jpg,a dog on a bed,a bed on a dog\n2.jpg,,\n")
    ...     good, bad = read_items(path)
    >>> good.image.name, good.captions, good.negatives, good.location
    ('1.jpg', ('a dog on a bed',), (('a bed on a dog',),), 'captions.csv line 2')
    >>> bad.location, bad.name, bad.problem
    ('captions.csv line 3', '2.jpg', 'has an empty caption')

    `column` is by default the first of `CAPTIONS` that a row has, its cell a text, a list of texts or of Karpathy's
    sentences; `image_column` the first of `IMAGES`, where `filename` and `filepath` together are `filepath/filename`.
    `require_image` says whether a row without an image is bad; if not, the columns `IDENTIFIERS` count as well.

    Raises:
        FileNotFoundError: If there is no such file.
        MissingPackageError: If it is Parquet and pyarrow is not installed.
        ValueError: If a file is malformed or lacks a column, if no row is of the splits asked for, or a fit could tell
            caption and negative by their full stop.
    """
    inputs, noted, other_splits, count = find_inputs(paths), "", set[str](), 0
    texts = (column,) if column else CAPTIONS
    sources = (image_column,) if image_column else IMAGES if require_image else (*IMAGES, *IDENTIFIERS)
    needed = [*(negative_columns or ()), *negative_images, *(["split"] if split else [])]
    for path in inputs:
        root = path.parent if images is None else path_of(images)
        table = _Table(root, texts, sources, negative_columns, negative_images, require_image, clean)
        taken = ""
        for location, cells in read_rows(path, table.wanted(path, needed)):
            if not isinstance(cells, dict):
                raise ValueError(f"{location} is a {type(cells).__name__}, not an object with columns.")
            if not taken:
                table.check(path, cells, needed)
                taken = table.taken(cells)
            if split and cells.get("split") not in split:
                other_splits.add(str(cells.get("split")))
                continue
            count += 1
            yield table.item(location, cells)
        if taken not in ("", noted):  # of many shards only the first
            _logger.log(NOTE, "%s: %s", path.name, taken)
            noted = taken
    if split and not count:
        there = ", ".join(sorted(other_splits)[:10]) or "none"
        raise ValueError(f"{inputs[0]} has no row of split {' or '.join(map(repr, split))}; it has {there}.")


class _RowError(ValueError):
    """What is wrong with a row, as a sentence goes on after its location."""


@dataclass(frozen=True)
class _Table:
    """Which columns of a file count, and what its rows say."""

    root: Any  # the folder that paths of images are relative to
    captions: Sequence[str]
    images: Sequence[str]
    negatives: Sequence[str] | None
    negative_images: Sequence[str]
    require_image: bool
    clean: bool | None

    def wanted(self, path: Path, needed: Sequence[str]) -> Callable[[str], bool]:
        """Whether a column is of use; an error if it is a Parquet file that lacks one."""
        named = {*self.captions, *self.images, *needed, *PARTS}
        if path.suffix.lower() == ".parquet":
            columns = parquet_columns(path)
            self.check(path, columns, needed)
            if not self.require_image and len(self.images) > 1:  # what only identifies an image is a text or a number
                named -= {name for name in IMAGES if not columns.get(name)}
        return lambda name: name in named or name in self._negatives((name,))

    def check(self, path: Path, columns: Collection[str], needed: Sequence[str]) -> None:
        """Refuse a file that lacks a column."""
        images = [self.images] if self.require_image or len(self.images) == 1 else []
        for names in (self.captions, *images, *([name] for name in needed)):
            if not {*names} & {*columns}:
                option = {self.captions: "column", self.images: "image_column"}.get(tuple(names))
                hint = f" Pass {option}=NAME, or column names in the first line." if option else ""
                raise ValueError(f"{path} {_lacks(names, columns)}.{hint}")

    def taken(self, cells: Cells) -> str:
        """In words the columns that are read of a row."""
        columns = {
            "captions": [name for name in self.captions if name in cells][:1],
            "images": list(filter(None, [self._image_cell(cells)[0]])),
            "negatives": self._negatives(tuple(cells)),
        }
        return ", ".join(f"{what} from {' and '.join(map(repr, names))}" for what, names in columns.items() if names)

    def item(self, location: str, cells: Cells) -> Item:
        """What a row says, or what is wrong with it."""
        image = None
        try:
            image = self._source(self._image_cell(cells)[1], location)
            if image is None and self.require_image:
                raise _RowError("names no image" if {*self.images} & {*cells} else _lacks(self.images, cells))
            name = next((name for name in self.captions if name in cells), None)
            if name is None:
                raise _RowError(_lacks(self.captions, cells))
            listed = _listed(cells[name])
            raw = [cells[name]] if listed is None else listed
            raw = [cell.get("raw", cell) if isinstance(cell, dict) else cell for cell in raw]  # Karpathy's sentences
            if not raw or any(map(_is_empty, raw)):
                raise _RowError(_EMPTY if len(raw) == 1 else "has an empty list of captions, or an empty one in it")
            captions = tuple(map(self._text, raw))
            if "" in captions:
                raise _RowError(f"{_EMPTY}: cleaning leaves nothing of {raw[captions.index('')]!r}")
            negatives = self._negatives_of(cells, None if listed is None else len(captions), location)
            parts, keywords = _parts(cells)
        except _RowError as error:
            return Item(image, (), (), location, problem=str(error))
        if self.clean is None:
            for caption, own in zip(captions, negatives, strict=True):
                _refuse_mixed(caption, own, location)
        described = tuple(tuple(own.values()) for own in negatives) if self.negative_images else ()
        return Item(image, captions, tuple(map(tuple, negatives)), location, described, parts, keywords)

    def _text(self, cell: Any) -> str:
        """A caption or a negative, all in one form, so that nothing but what they say tells them apart."""
        return clean_text(_checked(cell), WORDS) if self.clean else _checked(cell)

    def _image_cell(self, cells: Cells) -> tuple[str, Any]:
        """The column and the cell of the image, the first that is not empty; of `filename` and `filepath` one path."""
        for name in self.images:
            cell, folder = cells.get(name), cells.get("filepath")
            if name == "filename" and len(self.images) > 1 and folder and isinstance(cell, str):
                cell = folder if PurePosixPath(folder).name == cell else f"{folder}/{cell}"
            if not _is_empty(cell):
                return name, str(cell) if isinstance(cell, int) and not self.require_image else cell
        return "", None

    def _source(self, cell: Any, location: str) -> ImageSource | None:
        """Where the image of a cell is; None of an empty one."""
        if _is_empty(cell) or isinstance(cell, ImageSource):
            return cell or None
        if not isinstance(cell, str):
            raise _RowError(f"has an image that is a {type(cell).__name__}, not a path")
        return ImageSource(cell, self.root / cell if self.require_image else None, location=location)

    def _negatives(self, names: tuple[str, ...]) -> Sequence[str]:
        return _usual_negatives(names) if self.negatives is None else self.negatives

    def _negatives_of(self, cells: Cells, captions: int | None, location: str) -> list[dict[str, ImageSource | None]]:
        """For each caption its negatives, each once, with the first image that it describes; see `_by_caption`."""
        negatives: list[dict[str, ImageSource | None]] = [{} for _ in range(captions or 1)]
        for column, images in itertools.zip_longest(self._negatives(tuple(cells)), self.negative_images):
            if column is None and not _is_empty(cells.get(images)):
                raise _RowError(f"names an image in {images!r}, but lacks the column of negatives that it belongs to")
            texts, described = _by_caption(cells, column, captions), _by_caption(cells, images, captions)
            for own, several, sources in zip(negatives, texts, described, strict=True):
                if all(map(_is_empty, sources)):
                    sources = [None] * len(several)
                elif len(sources) != len(several):
                    count = f"has {len(several)} in {column!r} but {len(sources)} in {images!r}"
                    raise _RowError(f"{count}; name an image for each negative, or none")
                for cell, source in zip(several, sources, strict=True):
                    if not _is_empty(cell) and (text := self._text(cell)):
                        own[text] = own.get(text) or self._source(source, location)
        return negatives


def _lacks(names: Sequence[str], columns: Collection[str]) -> str:
    either = " or ".join(filter(None, (", ".join(map(repr, names[:-1])), repr(names[-1]))))
    there = ", ".join(repr(name) for name in columns if name) or "none"
    return f"has no column {either}; it has {there}{', so separate columns with commas' if ';' in there else ''}"


def _parts(cells: Cells) -> tuple[tuple[Part, ...], tuple[str, ...]]:
    """The parts and the keywords of a row; none where it is of a file without them."""
    if "part_kinds" not in cells:
        return (), ()
    *columns, keywords = (_listed(cells.get(name)) or [] for name in PARTS)
    if len(set(map(len, columns))) > 1:
        raise _RowError(f"has lists of different lengths in {', '.join(PARTS[:3])}")
    for text in itertools.chain(*columns, keywords):
        _checked(text)
    return tuple(map(Part, *columns)), tuple(keywords)


def _by_caption(cells: Cells, column: str | None, captions: int | None) -> list[list[Any]]:
    """What a column has for each of the `captions` that a list has; None is one caption that is not a list."""
    value = None if column is None else cells.get(column)
    values = _listed(value)
    if values is None and column in _NEGATIVES[:2] and isinstance(value, str) and value.startswith("["):
        raise _RowError(f"has a {column} that is neither a text nor a list of texts")
    if captions is None:
        return [[value] if values is None else values]
    if values is not None and len(values) == captions:
        return [[cell] if (nested := _listed(cell)) is None else nested for cell in values]
    if not _is_empty(value):
        raise _RowError(f"has {captions} captions, so {column!r} must be a list of as many, one for each")
    return [[] for _ in range(captions)]


@lru_cache(1024)
def _usual_negatives(names: tuple[str, ...]) -> list[str]:
    """Those of some columns that hold negatives by their names, numbered ones first and in order."""
    numbered = [(int(match[1] or 1), name) for name in names if name and (match := _NUMBERED.fullmatch(name))]
    return [name for _, name in sorted(numbered)] + [name for name in _NEGATIVES if name in names]


def _listed(cell: Any) -> list[Any] | None:
    """A cell that is a list, or is one of texts written out as Python or JSON write it; None for any other."""
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
    """Whether a cell is missing, or a text of nothing but space."""
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _checked(text: Any) -> str:
    """A text that a model can read."""
    if not isinstance(text, str):
        raise _RowError(f"has a {type(text).__name__} where a text should be")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _RowError(f"holds {text[:40]!r}, which is not valid Unicode") from None
    return text


def _refuse_mixed(caption: str, negatives: Collection[str], location: str) -> None:
    if not negatives or (cleaned := clean_text(caption, WORDS)) == caption:
        return
    for negative in negatives:
        if clean_text(negative, WORDS) == negative and is_shuffle(cleaned, negative):
            raise ValueError(
                f"{location}: the caption {caption!r} is not cleaned, but its negative {negative!r} is (lower case, no "
                f"full stop, {WORDS} words), so a fit would learn that difference instead of the order of words. Pass "
                "clean=True to clean both, or clean=False to keep them so."
            )
