"""Two images and two captions an item, which goes with which: Winoground's form, which seven benchmarks have."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from labclip.data.entries import fields, json_items, one_of, table_rows
from labclip.data.images import ImageSource
from labclip.data.located import ImageLayout, check_caption
from labclip.data.parquet import parquet_columns
from labclip.evaluation.benchmarks.fields import cell
from labclip.evaluation.items import gallery
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import NONE, Pairs, Task

Rows = Iterable[tuple[str, Any]]
"""Location and content of each entry."""

PROMPT = "a photo of "
"""The authors of MMVP-VLM put it before every statement."""


@dataclass(frozen=True)
class PairsForm:
    """Where an item has its images and its captions.

    Attributes:
        files: Names of the file, the first that is there; of a Parquet file also its shards.
        images: Fields of both images, as `cell` takes them.
        captions: Fields of their captions, in the same order.
        ways: Where people have an image, as `ImageLayout` takes it.
        kinds: Fields that say of which kind an item is, each with the form of that kind's name. Each kind has its
            scores in a table of its own; of a field that is a path its first folder counts.
        retrieval: Whether retrieval among all images and captions is measured too.
    """

    files: Sequence[str]
    images: Sequence[str] = ("image_0", "image_1")
    captions: Sequence[str] = ("caption_0", "caption_1")
    ways: Sequence[str] = ("{path}", "images/{path}")
    kinds: Mapping[str, str] = field(default_factory=dict)
    retrieval: bool = False


def read(form: dict[str, Any], sources: Sources) -> Task:
    """The scores of Winoground."""
    return _task(sources, PairsForm(**form))


def read_tagged(form: dict[str, Any], sources: Sources, *, breakdown: bool = False) -> Task:
    """`read`; with `breakdown` each tag has the scores too."""
    chosen = PairsForm(**form)
    return _task(sources, chosen if breakdown else replace(chosen, kinds={}))


def read_split(form: dict[str, Any], sources: Sources, *, split: str = "test") -> Task:
    """`read` of one split, "test" or "train"."""
    one_of("split", split, ("test", "train"))
    chosen = PairsForm(**form)
    return _task(sources, replace(chosen, files=[name.format(split=split) for name in chosen.files]))


def read_statements(form: dict[str, Any], sources: Sources) -> Task:
    """`read` of MMVP-VLM, where an image and its caption are a row, and an odd row and the next one an item."""
    chosen = PairsForm(**form)
    return _task(sources, chosen, _statements(table_rows(sources.either(*chosen.files))))


def _task(sources: Sources, form: PairsForm, rows: Rows | None = None) -> Task:
    """The items of a benchmark; one is left out if an image is missing, and wrong if its captions are equal."""
    layout = ImageLayout(sources, *form.ways)
    images: list[list[int]] = []
    texts: list[list[int]] = []
    locations: list[str] = []
    kinds: dict[str, list[int]] = {}
    for location, entry in _rows(sources, form) if rows is None else rows:
        shown, said, tags = (
            [cell(entry, name, location) for name in names] for names in (form.images, form.captions, form.kinds)
        )
        found = [_image(sources, one, f"{location} image {n}", layout) for n, one in enumerate(shown)]
        # EqBen has lists of captions for some images, of which its authors take the first.
        captions = [one[0] if isinstance(one, list) and one else one for one in said]
        for caption in captions:
            check_caption(caption, location)
        if None in found:
            continue
        for tag, (name, kind) in zip(tags, form.kinds.items(), strict=True):
            first, slash, _ = str(tag).partition("/")
            if tag and (slash or name not in form.images):
                kinds.setdefault(kind.format(first), []).append(len(locations))
        images.append([row for row in found if row is not None])
        texts.append([sources.caption(caption, location) for caption in captions])
        locations.append(location)
        sources.repeated += captions[0] == captions[1]
    if not locations:
        return sources.task()
    everyone = np.arange(len(locations))
    breakdown = {kind: np.where(np.isin(everyone, kinds[kind]), 0, NONE) for kind in sorted(kinds)}
    true = [(image, text, text) for both in zip(images, texts, strict=True) for image, text in zip(*both, strict=True)]
    pairs = Pairs(np.array(images), np.array(texts), locations, breakdown)
    return sources.task(pairs, *(gallery(sources, true) if form.retrieval else ()))


def _rows(sources: Sources, form: PairsForm) -> Rows:
    """The entries of the file that `data` is, of a Parquet file's shards in the folder, or of the first file there."""
    first, dot, _ = form.files[0].rpartition(".parquet")
    shards = sorted(path for at in ("", "data/", "*/") for path in sources.folder.glob(f"{at}{first}-*.parquet") if dot)
    if not shards or (sources.data is not None and sources.data.is_file()):
        shards = [sources.either(*form.files)]
    return itertools.chain(*(_table(path, form) for path in dict.fromkeys(shards)))


def _table(path: Path, form: PairsForm) -> Rows:
    """The entries of one file; images inside a Parquet file stay there until they are encoded."""
    if path.suffix.lower() == ".json":
        yield from json_items(path)
        return
    columns = parquet_columns(path) if path.suffix.lower() == ".parquet" else {}
    held = [name for name in form.images if not columns.get(name, True)]
    wanted = {*form.images, *form.captions, *form.kinds} - {*held}
    for row, (location, cells) in enumerate(table_rows(path, wanted.__contains__)):
        yield location, cells | {name: ImageSource(f"{location} {name}", path, start=row, column=name) for name in held}


def _statements(rows: Rows) -> Iterator[tuple[str, dict[str, str]]]:
    items: dict[int, dict[str, str]] = {}
    for location, cells in rows:
        number, pattern, statement = fields(cells, ("Question ID", "Type", "Statement"), location)
        if not number.isdecimal():
            raise ValueError(f"{location}: Question ID is {number!r}, not a number.")
        check_caption(statement, location)
        half, side = divmod(int(number) - 1, 2)
        items.setdefault(half, {"location": location}).update({
            f"image_{side}": f"{pattern}/{int(number)}.jpg",
            f"caption_{side}": PROMPT + statement,
            "kind": re.sub(r"\W+", "_", pattern.lower()).strip("_"),
        })  # fmt: skip
    for half, item in items.items():
        if len(item) < 6:
            raise ValueError(f"{item['location']}: of questions {2 * half + 1} and {2 * half + 2} only one is there.")
        yield item["location"], item


def _image(sources: Sources, value: Any, location: str, layout: ImageLayout) -> int | None:
    """The row of an image; EqBen's frames of YouCook2 are arrays of pixels, which are read here."""
    if isinstance(value, ImageSource):
        return sources.add(value)
    row = sources.image_in_cell(value, location, layout)
    source = None if row is None else sources.image_sources[row]
    if source is not None and source.data is None and source.file is not None and source.file.suffix == ".npy":
        source.data = _pixels(source.file)
    return row


def _pixels(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The pixels of a file whose colours stand blue first, as OpenCV has them."""
    try:
        pixels = np.load(path)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a whole NumPy array ({error}). Fetch it again.") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"{path} is {pixels.dtype} {pixels.shape}, not pixels: uint8 [height, width, 3].")
    return np.ascontiguousarray(pixels[:, :, ::-1])
