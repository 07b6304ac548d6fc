"""Winoground and ColorSwap: two images and two captions of the same words, which goes with which."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from labclip.data.entries import fields, one_of, table_rows
from labclip.data.located import ImageLayout
from labclip.evaluation.benchmarks.pairs import PairRow, pairs_of
from labclip.evaluation.items import gallery
from labclip.evaluation.sources import Benchmark, Sources
from labclip.evaluation.tasks import Task

TAGS = ("collapsed_tag", "num_main_preds", "secondary_tag")
"""The columns by which the paper's tables 3 and 4 break its scores down."""


def read_winoground(sources: Sources, *, breakdown: bool = False) -> Task:
    """`text`, `image` and `group` score, and retrieval among all images and captions.

    Columns `image_0`, `image_1`, `caption_0`, `caption_1`.

    Args:
        sources: The files.
        breakdown: Whether each tag has these scores too: swapped objects, relations or both, the number of main
            predicates, and what is symbolic, pragmatic or a series.
    """
    files = _files(sources, ("examples.jsonl", "data/examples.jsonl"), "test")
    return _read(sources, files, (0, 1), TAGS if breakdown else ())


def read_colorswap(sources: Sources, *, split: str = "test") -> Task:
    """`text`, `image` and `group` score, and retrieval among all images and captions.

    Columns `image_1`, `image_2`, `caption_1`, `caption_2`; the second image goes with the second caption.

    Args:
        sources: The files.
        split: "test" or "train".
    """
    one_of("split", split, ("test", "train"))
    return _read(sources, _files(sources, (f"{split}.jsonl", f"{split}.json"), split), (1, 2))


def _files(sources: Sources, names: Sequence[str], split: str) -> list[Path]:
    """The data file, or the Parquet files of a split in the folder or its `data`, or files of those names."""
    if sources.data is not None and sources.data.is_file():
        return [sources.data]
    shards = sorted(itertools.chain(*(sources.folder.glob(f"{at}{split}-*.parquet") for at in ("", "data/", "*/"))))
    return list(dict.fromkeys(shards)) or [sources.either(f"{split}.parquet", *names)]


def _read(sources: Sources, paths: Sequence[Path], numbers: tuple[int, int], tags: Sequence[str] = ()) -> Task:
    wanted = [f"{what}_{number}" for what in ("image", "caption") for number in numbers]
    # Winoground's jsonl names its images without their ending; its folder of the Hub has them in data/images.
    folders = "", "images/", "data/images/"
    layout = ImageLayout(sources, *(f"{at}{{path}}{end}" for at in folders for end in ("", ".png")), "{name}")
    pairs = pairs_of(sources, _rows(sources, paths, layout, wanted, tags))
    true = (both for one in pairs for both in zip(one.images.flat, one.texts.flat, strict=True))
    return sources.task(*pairs, *gallery(sources, [(int(image), int(text), text) for image, text in true]))


def _rows(
    sources: Sources, paths: Sequence[Path], layout: ImageLayout, wanted: Sequence[str], tags: Sequence[str]
) -> Iterator[PairRow]:
    for place, cells in itertools.chain(*(table_rows(path, {*wanted, *tags}.__contains__) for path in paths)):
        *shown, first, second = fields(cells, wanted, place)
        rows = [sources.image_in_cell(cell, f"{place} image {n}", layout) for n, cell in enumerate(shown)]
        values = zip(tags, fields(cells, tags, place), strict=True)
        yield place, rows, (first, second), [f"{tag}_{value}" for tag, value in values if value]


WINOGROUND = Benchmark(
    "winoground", "Winoground", "binding", read_winoground,
    wants="the Parquet file as data, or examples.jsonl and its images as images",
    source="huggingface.co/datasets/facebook/winoground (accept its terms there)",
    licence="research only, as its page says; images by Getty Images",
    paper="arXiv:2204.03162",
    headline=("text", "image", "group"),
)  # fmt: skip
COLORSWAP = Benchmark(
    "colorswap", "ColorSwap", "binding", read_colorswap,
    wants="the Parquet files as data, or test.json and its images as images",
    source="huggingface.co/datasets/stanfordnlp/colorswap (accept its terms there)",
    licence="MIT",
    paper="arXiv:2402.04492",
    headline=("text", "image", "group"),
)  # fmt: skip
