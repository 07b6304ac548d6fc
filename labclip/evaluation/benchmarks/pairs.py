"""Two images and two captions an item, which goes with which: Winoground's form, which seven benchmarks have."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labclip.data.entries import fields, json_items, one_of, table_rows
from labclip.data.images import ImageSource
from labclip.data.located import ImageLayout, base_name, check_caption
from labclip.data.parquet import parquet_columns
from labclip.evaluation.items import gallery
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import NONE, Pairs, Task

Cells = dict[str, Any]
Rows = Iterable[tuple[str, Cells]]
"""File and position, and the cells, of each item."""

TAGS = ("collapsed_tag", "num_main_preds", "secondary_tag")
"""The columns by which tables 3 and 4 of Winoground's paper break its scores down."""

COLA = "COLA_multiobjects_matching_benchmark.json"
PROMPT = "a photo of "
"""The authors of MMVP-VLM put it before every statement."""


@dataclass(frozen=True)
class Form:
    """Where an item has its images and its captions.

    Attributes:
        images: Names of the columns of both images.
        captions: Names of the columns of their captions, in the same order.
        ways: Where people have an image, as `ImageLayout` takes it.
        tags: Further columns that are read.
        kinds: From an item to the kinds that it is of; each kind has its scores in a table of its own.
    """

    images: tuple[str, str] = ("image_0", "image_1")
    captions: tuple[str, str] = ("caption_0", "caption_1")
    ways: tuple[str, ...] = ("{path}", "images/{path}")
    tags: tuple[str, ...] = ()
    kinds: Callable[[Cells], list[str]] = lambda _: []


# Winoground's jsonl names its images without their ending; its folder of the Hub has them in data/images.
_HUB = (*(f"{at}{{path}}{end}" for at in ("", "images/", "data/images/") for end in ("", ".png")), "{name}")


def read_winoground(sources: Sources, *, breakdown: bool = False) -> Task:
    """`text`, `image` and `group` score, and retrieval among all images and captions.

    Columns `image_0`, `image_1`, `caption_0`, `caption_1`.

    Args:
        sources: The files.
        breakdown: Whether each tag has these scores too: swapped objects, relations or both, the number of main
            predicates, and what is symbolic, pragmatic or a series.
    """
    tags = TAGS if breakdown else ()
    form = Form(ways=_HUB, tags=tags, kinds=lambda cells: [f"{tag}_{cells[tag]}" for tag in tags if cells[tag]])
    return _task(sources, _tables(sources, form, "test", "examples.jsonl", "data/examples.jsonl"), form, retrieval=True)


def read_colorswap(sources: Sources, *, split: str = "test") -> Task:
    """`text`, `image` and `group` score, and retrieval among all images and captions.

    Columns `image_1`, `image_2`, `caption_1`, `caption_2`; the second image goes with the second caption.

    Args:
        sources: The files.
        split: "test" or "train".
    """
    one_of("split", split, ("test", "train"))
    form = Form(("image_1", "image_2"), ("caption_1", "caption_2"), _HUB)
    return _task(sources, _tables(sources, form, split, f"{split}.jsonl", f"{split}.json"), form, retrieval=True)


def read_bivlc(sources: Sources) -> Task:
    """`text`, `image` and `group` (the paper's I2T, T2I and group score), of all items and of each type.

    Winoground's scores: both images prefer their caption, both captions prefer their image, both of these.
    """
    form = Form(
        ("image", "negative_image"), ("caption", "negative_caption"), tags=("type",),
        kinds=lambda cells: [str(cells["type"])] if cells["type"] else [],
    )  # fmt: skip
    return _task(sources, _tables(sources, form, "test"), form)


def read_cola(sources: Sources) -> Task:
    """`image` (the authors' accuracy of multiple objects: both captions prefer their image), `text` and `group`.

    The authors' part with single objects, a mean average precision, is not read.
    """
    return _task(sources, _links(sources.files(COLA)[0]), Form())


def read_eqben(sources: Sources) -> Task:
    """`text`, `image` and `group` score as of Winoground, of all items and of each part, such as `eqbensd_group`."""
    form = Form(
        ("image0", "image1"), ("caption0", "caption1"), ("{path}", "image_subset/{path}", "images/{path}"),
        kinds=lambda cells: [part for part in [cells["image0"].partition("/")[0]] if part.startswith("eqben")],
    )  # fmt: skip
    rows = _table(sources.either("eqben_subset_10percent_final.json", "all_select.json"), form)
    # Action Genome's captions are lists in some files, of which the authors take the first.
    plain = ((location, {name: _first(cell) for name, cell in cells.items()}) for location, cells in rows)
    return _task(sources, plain, form)


def read_mmvp(sources: Sources) -> Task:
    """`image` (the authors' accuracy: both statements prefer their image), `text` and `group`, also of each pattern."""
    form = Form(
        ways=("MLLM_VLM Images/{path}", "MMVP_VLM_Images/{path}", "{path}"), tags=("kind",),
        kinds=lambda cells: [cells["kind"]] if cells["kind"] else [],
    )  # fmt: skip
    return _task(sources, _statements(sources), form)


def read_naturalbench(sources: Sources) -> Task:
    """`text`, `image` and `group` score as of Winoground. The questions of NaturalBench are not read."""
    form = Form(ways=("images/{path}", "{path}"))
    return _task(sources, _table(sources.files("metadata.json")[0], form), form)


def _first(cell: Any) -> Any:
    return cell[0] if isinstance(cell, list) and cell else cell


def _tables(sources: Sources, form: Form, split: str, *names: str) -> Rows:
    """The rows of the file that `data` is, or of a split's Parquet files in the folder or its `data`, or of a file."""
    shards = sorted(itertools.chain(*(sources.folder.glob(f"{at}{split}-*.parquet") for at in ("", "data/", "*/"))))
    if (sources.data is not None and sources.data.is_file()) or not shards:
        shards = [sources.either(f"{split}.parquet", *names)]
    return itertools.chain(*(_table(path, form) for path in dict.fromkeys(shards)))


def _table(path: Path, form: Form) -> Iterator[tuple[str, Cells]]:
    """The rows of a table; images inside a Parquet file stay there until they are encoded."""
    columns = parquet_columns(path) if path.suffix.lower() == ".parquet" else {}
    held = [name for name in form.images if not columns.get(name, True)]
    if lacking := [name for name in form.images if columns and name not in columns]:
        raise ValueError(f"{path} has no column {', '.join(lacking)}.")
    wanted = {*form.images, *form.captions, *form.tags} - {*held}
    for row, (location, cells) in enumerate(table_rows(path, wanted.__contains__)):
        yield location, cells | {name: ImageSource(f"{location} {name}", path, start=row, column=name) for name in held}


def _links(path: Path) -> Iterator[tuple[str, Cells]]:
    """Cola's items; its links end in the names that the images have in Visual Genome."""
    for location, item in json_items(path):
        if not isinstance(item, list) or len(item) != 4:
            raise ValueError(f"{location} is {item!r}, not [link to image 1, caption 1, link to image 2, caption 2].")
        names = [base_name(link) if isinstance(link, str) else link for link in item[::2]]
        yield location, dict(zip(("image_0", "image_1", "caption_0", "caption_1"), (*names, *item[1::2]), strict=True))


def _statements(sources: Sources) -> Iterator[tuple[str, Cells]]:
    """MMVP's pairs: an odd number and the next one."""
    waiting: dict[int, tuple[str, str, str, str]] = {}
    for location, cells in table_rows(sources.files("Questions.csv")[0]):
        number, pattern, statement = fields(cells, ("Question ID", "Type", "Statement"), location)
        if not str(number).isdecimal() or int(number) in waiting:
            raise ValueError(f"{location}: Question ID is {number!r}, not a number that no other row has.")
        check_caption(statement, location)
        kind = re.sub(r"\W+", "_", str(pattern).lower()).strip("_")
        waiting[int(number)] = location, f"{pattern}/{int(number)}.jpg", PROMPT + statement, kind
    for number, (location, image, caption, kind) in waiting.items():
        partner = number + 1 if number % 2 else number - 1
        if partner not in waiting:
            raise ValueError(f"{location}: question {number} has no partner, question {partner}.")
        if number % 2:
            _, second, other, _ = waiting[partner]
            yield (
                location,
                {"image_0": image, "image_1": second, "caption_0": caption, "caption_1": other, "kind": kind},
            )


def _task(sources: Sources, rows: Rows, form: Form, *, retrieval: bool = False) -> Task:
    """The items of a benchmark; one is left out if an image is missing, and wrong if its captions are equal."""
    layout = ImageLayout(sources, *form.ways)
    images: list[list[int]] = []
    texts: list[list[int]] = []
    locations: list[str] = []
    kinds: dict[str, list[int]] = {}
    for location, cells in rows:
        *shown, first, second = fields(cells, (*form.images, *form.captions), location)
        fields(cells, form.tags, location)
        for caption in (first, second):
            check_caption(caption, location)
        found = [_image(sources, cell, f"{location} image {n}", layout) for n, cell in enumerate(shown)]
        if None in found:
            continue
        for kind in form.kinds(cells):
            kinds.setdefault(kind, []).append(len(locations))
        images.append([row for row in found if row is not None])
        texts.append([sources.caption(caption, location) for caption in (first, second)])
        locations.append(location)
        sources.repeated += texts[-1][0] == texts[-1][1]
    if not locations:
        return sources.task()
    everyone = np.arange(len(locations))
    breakdown = {kind: np.where(np.isin(everyone, kinds[kind]), 0, NONE) for kind in sorted(kinds)}
    true = [(image, text, text) for both in zip(images, texts, strict=True) for image, text in zip(*both, strict=True)]
    pairs = Pairs(np.array(images), np.array(texts), locations, breakdown)
    return sources.task(pairs, *(gallery(sources, true) if retrieval else ()))


def _image(sources: Sources, cell: Any, location: str, layout: ImageLayout) -> int | None:
    """The row of an image; EqBen's frames of YouCook2 are arrays of pixels, which are read here."""
    if isinstance(cell, ImageSource):
        return sources.add(cell)
    row = sources.image_in_cell(cell, location, layout)
    source = None if row is None else sources.image_sources[row]
    if source is not None and source.data is None and source.file is not None and source.file.suffix == ".npy":
        source.data = _pixels(source.file)
    return row


def _pixels(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The pixels of a file whose colours stand blue first, as OpenCV has them."""
    try:
        pixels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a whole NumPy array ({error}). Fetch it again.") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"{path} is {pixels.dtype} {pixels.shape}, not pixels: uint8 [height, width, 3].")
    return np.ascontiguousarray(pixels[:, :, ::-1])
