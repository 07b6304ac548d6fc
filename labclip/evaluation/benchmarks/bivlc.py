"""BiVLC: SugarCrepe's negatives with an image each, so that captions choose too (arXiv:2406.09952)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from labclip.data.entries import fields, table_rows
from labclip.data.images import ImageSource
from labclip.data.rows import column_names
from labclip.evaluation.benchmarks.pairs import PairRow, pairs_of
from labclip.evaluation.sources import Benchmark, Sources
from labclip.evaluation.tasks import Task

IMAGES, TEXTS = ("image", "negative_image"), ("caption", "negative_caption", "type")


def read(sources: Sources) -> Task:
    """`text`, `image` and `group` (the paper's I2T, T2I and group score), of all items and of each type.

    Winoground's scores: both images prefer their caption, both captions prefer their image, both of these.
    """
    files = (
        [sources.data] if sources.data and sources.data.is_file() else sorted(sources.folder.rglob("test-*.parquet"))
    )
    files = files or sources.files("test-00000-of-00001.parquet")
    return sources.task(*pairs_of(sources, (row for path in files for row in _rows(sources, path))))


def _rows(sources: Sources, path: Path) -> Iterator[PairRow]:
    if lacking := [name for name in IMAGES if name not in column_names(path)]:
        raise ValueError(f"{path} has no column {', '.join(lacking)}.")
    for row, (place, cells) in enumerate(table_rows(path, TEXTS.__contains__)):
        *captions, kind = fields(cells, TEXTS, place)
        # Read when they are encoded: all of them in memory would be gigabytes.
        shown = [ImageSource(f"{place} {name}", path, start=row, column=name) for name in IMAGES]
        yield place, [sources.found.add(one) for one in shown], captions, [str(kind)] if kind else []


BENCHMARK = Benchmark(
    "bivlc", "BiVLC", "binding", read,
    wants="the Parquet files of the Hub as data, or the folder they are in; the images are inside",
    source="huggingface.co/datasets/imirandam/BiVLC, github.com/IMirandaM/BiVLC",
    licence="MIT; COCO images: Flickr terms of use",
    paper="arXiv:2406.09952",
    headline=("text", "image", "group"),
)  # fmt: skip
