"""EqBen: frames of videos and renderings that differ in one respect, and their captions (arXiv:2303.14465)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from labclip.data.entries import fields, table_rows
from labclip.data.located import ImageLayout
from labclip.evaluation.benchmarks.pairs import PairRow, pairs_of
from labclip.evaluation.sources import Benchmark, Sources
from labclip.evaluation.tasks import Task

WANTED = ("image0", "image1", "caption0", "caption1")


def read(sources: Sources) -> Task:
    """`text`, `image` and `group` score as of Winoground, of all items and of each part, such as `eqbensd_group`."""
    return sources.task(*pairs_of(sources, _rows(sources)))


def _rows(sources: Sources) -> Iterator[PairRow]:
    layout = ImageLayout(sources, "{path}", "image_subset/{path}", "images/{path}")
    path = sources.either("eqben_subset_10percent_final.json", "all_select.json")
    for place, cells in table_rows(path, WANTED.__contains__):
        *names, first, second = fields(cells, WANTED, place)
        shown = [_image(sources, layout, name, place) for name in names]
        # The first folder of an image's path is the part.
        part = str(names[0]).partition("/")[0]
        # Action Genome's captions are lists in some files, of which the authors take the first.
        said = [text[0] if isinstance(text, list) and text else text for text in (first, second)]
        yield place, shown, said, [part] if part.startswith("eqben") else []


def _image(sources: Sources, layout: ImageLayout, name: Any, place: str) -> int | None:
    """The row of an image; YouCook2's are arrays of pixels, which are read here."""
    row = layout.image(name, place)
    if row is not None and name.endswith(".npy"):
        source = sources.found.sources[row]
        assert source.file is not None
        if source.data is None:
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


BENCHMARK = Benchmark(
    "eqben", "EqBen", "binding", read,
    wants="eqben_subset_10percent_final.json (the tenth that the authors publish) or all_select.json (their small set) "
    "as data; its images as images. YouCook2's frames, .npy files, are held in memory",
    source="github.com/Wangt-CN/EqBen",
    licence="Apache 2.0; images under the terms of their sources",
    paper="arXiv:2303.14465",
    headline=("text", "image", "group"),
)  # fmt: skip
