"""Images with their captions and negatives from files of every kind, as one stream of items."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labclip.data.cleaning import clean as clean_text
from labclip.data.cleaning import is_shuffle
from labclip.data.columns import IMAGES, Columns, RowError, in_archive, is_empty, listed
from labclip.data.images import ImageSource
from labclip.data.parquet import parquet_columns
from labclip.data.rows import Wanted, find_inputs, reader_of
from labclip.files import path_of
from labclip.messages import NOTE

WORDS = 40
"""Words that a cleaned text keeps, as many as shuffled negatives have."""

EMPTY = "has an empty caption"
_SPLITS = 10  # named in a message
_USUAL = Columns()
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
        return self.problem.startswith(EMPTY)

    def checked(self) -> Item:
        """The item itself; ValueError with its location where there is a problem."""
        if self.problem:
            raise ValueError(f"{self.location} {self.problem}.")
        return self


def read_items(
    paths: str | Path | Sequence[str | Path],
    *,
    columns: Columns = _USUAL,
    images: str | Path | None = None,
    require_image: bool = True,
    clean: bool | None = None,
    seen: Callable[[], object] | None = None,
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
        columns: Which of their columns count.
        images: The folder, or its URL, that paths of images are relative to; by default the one that each file is in.
        require_image: Whether a row without an image is bad. If not, the columns that only identify an image count.
        clean: True cleans captions and negatives alike, to 40 words, False takes them as they are. None does too, but
            is an error where a caption that is not clean has a negative that `negatives.shuffle` has cleaned.
        seen: Called once a row, for progress.

    Yields:
        An item a row; where captions of a row are bad, an item with the problem for each, and one with the others if
        there are.

    Raises:
        FileNotFoundError: If there is no such file.
        MissingPackageError: If it is Parquet and pyarrow is not installed.
        ValueError: If a file can't be read at all, or lacks a column, if no row is of the splits asked for, or a fit
            could tell caption and negative by their full stop.
    """
    inputs, told, none = find_inputs(paths), "", True
    for path in inputs:
        table = Table(path, columns, images, require_image=require_image, clean=clean)
        for number, where, cells in table.rows():
            none = False
            if seen is not None:
                seen()
            yield from table.items(number, where, cells)
        if table.taken and table.taken != told:  # of many shards only the first
            _logger.log(NOTE, "%s: %s", path.name, table.taken)
            told = table.taken
    if columns.split and none:
        asked, there = " or ".join(map(repr, columns.split)), ", ".join(table.splits) or "none"
        raise ValueError(f"{', '.join(map(str, inputs))} has no row of split {asked}; it has {there}.")


class Table:
    """The rows of one file of captions, and what each says.

    Args:
        path: The file.
        columns: Which of its columns count.
        images: The folder, or its URL, that paths of images are relative to; None is the file's own.
        require_image: Whether a row without an image is bad.
        clean: As of `read_items`.

    Attributes:
        taken: In words the columns that are read, once a row was.
        splits: Some values of the column `split` that were met, where splits are asked for.
    """

    def __init__(
        self,
        path: Path,
        columns: Columns,
        images: str | Path | None = None,
        *,
        require_image: bool = True,
        clean: bool | None = False,
    ) -> None:
        self.path, self.columns, self.require_image, self.clean = path, columns, require_image, clean
        self.taken = ""
        self.splits: dict[str, None] = {}
        self._root = path.parent if images is None else path_of(images)

    def rows(self) -> Iterator[tuple[int, str, dict[str, Any] | str]]:
        """Number, from 0, position and cells of the rows of the splits asked for, as `reader_of` gives them.

        Raises:
            ValueError: If the file can't be read, or lacks a column.
        """
        for number, (where, cells) in enumerate(reader_of(self.path)(self.path, self.wanted())):
            if isinstance(cells, dict):
                if not self.taken:
                    self._check(cells, archive=in_archive(cells))
                    self.taken = self.columns.taken(cells, require_image=self.require_image)
                if self.columns.split is not None and (split := cells.get("split")) not in self.columns.split:
                    if isinstance(split, str) and len(self.splits) < _SPLITS:
                        self.splits[split] = None
                    continue
            yield number, where, cells

    def wanted(self) -> Wanted:
        """Whether a column is of use; an error if it is a Parquet file that lacks one."""
        if self.path.suffix.lower() != ".parquet":
            return self.columns.wanted
        names = parquet_columns(self.path)
        self._check(names)
        # The bytes of images are not read where only a name is asked for.
        bytes_too = self.require_image or self.columns.image is not None
        unread = set() if bytes_too else {name for name in IMAGES if not names.get(name)}
        return lambda name: name not in unread and self.columns.wanted(name)

    def _check(self, names: Iterable[str], *, archive: bool = False) -> None:
        self.columns.check(names, str(self.path), archive=archive, require_image=self.require_image)

    def items(self, number: int, where: str, cells: dict[str, Any] | str) -> Iterator[Item]:
        """What is wrong with a row's captions, and an item with those that are sound."""
        location, image = f"{self.path.name} {where}", None
        try:
            if isinstance(cells, str):
                raise RowError(cells)
            image = self._image(number, location, cells)
            cell = self.columns.captions_in(cells)
            several = listed(cell)
            captions = [cell] if several is None else several
            negatives = self.columns.negatives_in(
                cells,
                None if several is None else len(several),
                lambda name, cell: self._source(name, cell, number, location),
            )
            if not captions:
                raise RowError("has an empty list of captions")
        except RowError as error:
            yield Item(image, (), (), location, problem=str(error))
            return
        sound: list[tuple[str, dict[str, ImageSource | None]]] = []
        for caption, mine in zip(captions, negatives, strict=True):
            try:
                sound.append(self._worded(caption, mine, location))
            except RowError as error:
                yield Item(image, (), (), location, problem=str(error))
        if sound:
            texts, of_texts = zip(*sound, strict=True)
            shown = tuple(tuple(mine.values()) for mine in of_texts) if self.columns.negative_images else ()
            yield Item(image, texts, tuple(map(tuple, of_texts)), location, shown)

    def _worded(
        self, caption: Any, negatives: Sequence[tuple[Any, ImageSource | None]], location: str
    ) -> tuple[str, dict[str, ImageSource | None]]:
        """A caption and its negatives, each text once with the first image that it has.

        All are in one form, so that nothing but what they say tells caption and negative apart.
        """
        if is_empty(caption):
            raise RowError(EMPTY)
        _check_text(caption, "a caption")
        for text, _ in negatives:
            _check_text(text, "a negative")
        if self.clean is None:
            _refuse_mixed(caption, negatives, location)
        if self.clean:
            raw, caption = caption, clean_text(caption, WORDS)
            if not caption.strip():
                raise RowError(f"{EMPTY}: cleaning leaves nothing of {raw!r}")
            cleaned = ((clean_text(text, WORDS), image) for text, image in negatives)
            negatives = [(text, image) for text, image in cleaned if text.strip()]
        distinct: dict[str, ImageSource | None] = {}
        for text, image in negatives:
            distinct[text] = distinct.get(text) or image
        return caption, distinct

    def _image(self, number: int, location: str, cells: dict[str, Any]) -> ImageSource | None:
        """Where a row's image is; None where it names none and need not."""
        if in_archive(cells):
            held: ImageSource = cells["image"]
            return held
        image = self._source(*self.columns.image_in(cells, required=self.require_image), number, location)
        if image is None and self.require_image:
            raise RowError("names no image")
        return image

    def _source(self, column: str, cell: Any, number: int, location: str) -> ImageSource | None:
        """Where the image of a cell is; None of an empty one."""
        name: Any = cell
        if isinstance(cell, dict) and set(cell) <= {"bytes", "path"}:  # as Hugging Face datasets keep images
            name, cell = cell.get("path"), cell.get("bytes") or cell.get("path")
        if isinstance(cell, bytes):
            name = name if isinstance(name, str) else f"row {number + 1}"
            return ImageSource(name, self.path, start=number, column=column, data=cell, location=location)
        if is_empty(cell):
            return None
        if not isinstance(cell, str):
            raise RowError(f"has an image that is a {type(cell).__name__}, not a path")
        _check_text(cell, "a path")
        return ImageSource(cell, self._root / cell if self.require_image else None, location=location)


def _check_text(text: Any, what: str) -> None:
    """Refuse what no model can read."""
    if not isinstance(text, str):
        raise RowError(f"has {what} that is a {type(text).__name__}, not a text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowError(f"holds {text[:40]!r}, which is not valid Unicode") from None


def _refuse_mixed(caption: str, negatives: Sequence[tuple[str, Any]], location: str) -> None:
    if not negatives or (cleaned := clean_text(caption, WORDS)) == caption:
        return
    for negative, _ in negatives:
        if clean_text(negative, WORDS) == negative and is_shuffle(cleaned, negative):
            raise ValueError(
                f"{location}: the caption {caption!r} is not cleaned, but its negative {negative!r} is (lower case, no "
                f"full stop, {WORDS} words), so a fit would learn that difference instead of the order of words. Pass "
                "clean=True to clean both, or clean=False to keep them so; or write the file with "
                "labclip negatives --clean."
            )
