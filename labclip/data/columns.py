"""Which columns of a row hold what: the one order of their names, and the cells that hold several texts."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from pathlib import PurePosixPath
from typing import Any

from labclip.data.images import ImageSource

CAPTIONS = ("caption", "title", "captions", "sentences", "text")
IMAGES = ("image", "filename", "filepath", "image_path", "file_name")
"""The usual names, those of Hugging Face's datasets among them."""

IDENTIFIERS = ("image_id", "url")
"""Columns that say which rows are of one image, but not where it is."""

_NUMBERED = re.compile(r"negative(?:_(\d+))?")
_NEGATIVES = ("negatives", "neg_caption", "negative_caption")  # ours, NegCLIP's, SugarCrepe's
_LISTS = ("negatives", "neg_caption")
_SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'", ",": "','"}


class RowError(ValueError):
    """What is wrong with a row, as a sentence goes on after its location."""


@dataclass(frozen=True)
class Columns:
    """Which columns to read; None takes the usual names, the first of them that is there.

    Attributes:
        caption: The caption's; else those of `CAPTIONS`, or an archive's `.txt`. A cell is a text, or a list of texts
            or of Karpathy's sentences.
        image: The image's; else those of `IMAGES`. Where `filename` and `filepath` are both there, as in Karpathy's
            files, the image is `filepath/filename`. Where no image is required, also `image_id` or `url`, which only
            identify it.
        negatives: The negatives'; else all that are there of `negative`, `negative_2`, ..., `negatives`,
            `neg_caption`, `negative_caption`.
        split: Rows to take, by their column `split`; None takes all.
        negative_images: Those of images that the negatives describe, the first for the first column of negatives, and
            so on; None reads none.
    """

    caption: str | None = None
    image: str | None = None
    negatives: tuple[str, ...] | None = None
    split: tuple[str, ...] | None = None
    negative_images: tuple[str, ...] | None = None

    def option(self, name: str) -> str:
        """What to type to name a column: `name` is "column" or "image_column"."""
        return f"{name}=NAME"

    def wanted(self, name: str) -> bool:
        """Whether a column can be of use."""
        return (
            name in self._captions()
            or name in self._images(required=False)
            or (bool(usual_negatives((name,))) if self.negatives is None else name in self.negatives)
            or name in (self.negative_images or ())
            or (self.split is not None and name == "split")
        )

    def check(self, names: Iterable[str], file: str, *, archive: bool = False, require_image: bool = False) -> None:
        """Refuse a file that lacks a column; `archive` says whether its samples hold their images."""
        needed = [("column", self._captions(archive))]
        if not archive and (require_image or self.image):
            needed.append(("image_column", self._images(required=True)))
        others = *(self.negatives or ()), *(self.negative_images or ()), *(["split"] if self.split else [])
        names = list(names)
        for option, several in [*needed, *(("", (name,)) for name in others)]:
            if set(several) & set(names):
                continue
            there = ", ".join(repr(name) for name in names if name) or "none"
            hint = f" Pass {self.option(option)}, or column names in the first line." if option else ""
            if len(names) == 1 and file.lower().endswith((".csv", ".tsv")):
                usual = "tabs" if file.lower().endswith(".tsv") else "commas"
                marks = (mark for sign, mark in _SEPARATORS.items() if sign in names[0])
                hint = next(
                    (f" Its columns seem to be separated by {mark}: write it with {usual}." for mark in marks), hint
                )
            *more, last = map(repr, several)
            either = f"{', '.join(more)} or {last}" if more else last
            raise ValueError(f"{file} has no column {either}; it has {there}.{hint}")

    def taken(self, cells: Mapping[str, Any], *, require_image: bool) -> str:
        """In words the columns that are read of a row."""
        image = "" if in_archive(cells) else self.image_in(cells, required=require_image)[0]
        names = {
            "captions": [self._caption(cells)],
            "images": [image] if image else [],
            "negatives": self._negatives(cells),
        }
        return ", ".join(
            f"{what} from {' and '.join(map(repr, several))}" for what, several in names.items() if several
        )

    def _captions(self, archive: bool = False) -> tuple[str, ...]:
        return (self.caption,) if self.caption else ("txt", *CAPTIONS) if archive else CAPTIONS

    def _caption(self, cells: Mapping[str, Any]) -> str:
        return _first(self._captions(in_archive(cells)), tuple(cells))

    def _images(self, *, required: bool) -> tuple[str, ...]:
        return (self.image,) if self.image is not None else IMAGES if required else (*IMAGES, *IDENTIFIERS)

    def _negatives(self, cells: Mapping[str, Any]) -> Sequence[str]:
        return usual_negatives(tuple(cells)) if self.negatives is None else self.negatives

    def captions_in(self, cells: Mapping[str, Any]) -> Any:
        """The cell of the captions; None where a sample of an archive has none."""
        name = self._caption(cells)
        cell = cells.get(name) if in_archive(cells) else _cell(cells, name)
        return [_raw(one) for one in cell] if isinstance(cell, list) else _raw(cell)

    def image_in(self, cells: Mapping[str, Any], *, required: bool) -> tuple[str, Any]:
        """The column and the cell of the image; of `filename` and `filepath` both, one path.

        Where it is not required to say where the image is, the first cell counts that is a name or a number and not
        empty, in a column that only identifies an image too.
        """
        names = self._images(required=required)
        if required:
            name = _first(names, tuple(cells))
            return name, self._image(name, cells)
        for name in names:
            cell = self._image(name, cells) if name in cells else None
            if not is_empty(cell) and (self.image is not None or isinstance(cell, str | int)):
                return name, str(cell) if isinstance(cell, int) else cell
        return "", None

    def _image(self, name: str, cells: Mapping[str, Any]) -> Any:
        cell, folder = _cell(cells, name), cells.get("filepath")
        if self.image is None and name == "filename" and isinstance(folder, str) and isinstance(cell, str) and folder:
            return folder if PurePosixPath(folder).name == cell else f"{folder}/{cell}"
        return cell

    def negatives_in(
        self, cells: Mapping[str, Any], captions: int | None, source: Callable[[str, Any], ImageSource | None]
    ) -> list[list[tuple[Any, ImageSource | None]]]:
        """For each caption its negatives, each with the image that it describes, None where there is none.

        `captions` is how many a list has, None for one caption that is not a list; `source` makes an image of a column
        and a cell.
        """
        negatives: list[list[tuple[Any, ImageSource | None]]] = [[] for _ in range(captions or 1)]
        for column, images in zip_longest(self._negatives(cells), self.negative_images or ()):
            if column is None and not is_empty(cells.get(images)):
                raise RowError(f"names an image in {images!r}, but lacks the column of negatives that it belongs to")
            texts = _by_caption(cells, column, captions)
            if images is None:
                for mine, several in zip(negatives, texts, strict=True):
                    mine += [(text, None) for text in several if not is_empty(text)]
                continue
            for mine, several, shown in zip(negatives, texts, _by_caption(cells, images, captions), strict=True):
                shown = [None] * len(several) if all(map(is_empty, shown)) else shown
                if len(shown) != len(several):
                    count = f"has {len(several)} in {column!r} but {len(shown)} in {images!r}"
                    raise RowError(f"{count}; name an image for each negative, or none")
                if isinstance(cells.get(images), list) and not all(isinstance(cell, str | None) for cell in shown):
                    raise RowError(f"has a list in {images!r} of images that are not paths")
                pairs = zip(several, shown, strict=True)
                mine += [(text, source(images, cell)) for text, cell in pairs if not is_empty(text)]
        return negatives


def in_archive(cells: Mapping[str, Any]) -> bool:
    """Whether a row is a sample of an archive, which holds its image."""
    return isinstance(cells.get("image"), ImageSource)


def _by_caption(cells: Mapping[str, Any], column: str | None, captions: int | None) -> list[list[Any]]:
    """What a column has for each of the captions that a list has; None is one caption that is not a list."""
    value = None if column is None else cells.get(column)
    values = listed(value)
    if values is None and column in _LISTS and isinstance(value, str) and value.startswith("["):
        raise RowError(f"has a {column} that is neither a text nor a list of texts")
    if captions is None:
        return [[value] if values is None else values]
    if values is not None and len(values) == captions:
        return [[one] if (nested := listed(one)) is None else nested for one in values]
    if not is_empty(value):
        raise RowError(f"has {captions} captions, so {column!r} must be a list of as many, one for each")
    return [[] for _ in range(captions)]


def _raw(cell: Any) -> Any:
    """The text of one of Karpathy's sentences; any other cell as it is."""
    return cell["raw"] if isinstance(cell, dict) and "raw" in cell else cell


def _cell(cells: Mapping[str, Any], name: str) -> Any:
    if name not in cells:
        raise RowError(f"has no {name}; it has {', '.join(filter(None, cells)) or 'nothing'}")
    return cells[name]


@lru_cache(1024)
def _first(wanted: tuple[str, ...], names: tuple[str, ...]) -> str:
    return next((name for name in wanted if name in names), wanted[0])


@lru_cache(1024)
def usual_negatives(names: tuple[str, ...]) -> list[str]:
    """Those of some columns that hold negatives by their names, numbered ones first and in order."""
    numbered = [(int(found[1] or 1), name) for name in names if name and (found := _NUMBERED.fullmatch(name))]
    return [name for _, name in sorted(numbered)] + [name for name in _NEGATIVES if name in names]


def listed(cell: Any) -> list[Any] | None:
    """A cell that is a list, or is one of texts written out as Python or JSON write it; None for any other."""
    if isinstance(cell, list):
        return cell
    if not (isinstance(cell, str) and cell.startswith("[") and cell.endswith("]")):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd escapes in somebody's captions
                value = parse(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        texts = isinstance(value, list) and all(one is None or isinstance(one, str | list) for one in value)
        return value if texts else None
    return None


def is_empty(cell: Any) -> bool:
    """Whether a cell is missing, or a text of nothing but space."""
    return cell is None or (isinstance(cell, str) and not cell.strip())
