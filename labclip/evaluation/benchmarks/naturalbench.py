"""NaturalBench as retrieval: two photos and two captions that models confuse (arXiv:2410.14669)."""

from __future__ import annotations

from collections.abc import Iterator

from labclip.data.entries import fields, table_rows
from labclip.data.located import ImageLayout
from labclip.evaluation.benchmarks.pairs import PairRow, pairs_of
from labclip.evaluation.sources import Benchmark, Sources
from labclip.evaluation.tasks import Task

WANTED = ("image_0", "image_1", "caption_0", "caption_1")


def read(sources: Sources) -> Task:
    """`text`, `image` and `group` score as of Winoground. The questions of NaturalBench are not read."""
    return sources.task(*pairs_of(sources, _rows(sources)))


def _rows(sources: Sources) -> Iterator[PairRow]:
    layout = ImageLayout(sources, "images/{path}", "{path}")
    for place, cells in table_rows(sources.files("metadata.json")[0], WANTED.__contains__):
        *names, first, second = fields(cells, WANTED, place)
        yield place, [layout.image(name, place) for name in names], (first, second), ()


BENCHMARK = Benchmark(
    "naturalbench", "NaturalBench-Retrieval", "binding", read,
    wants="metadata.json of NaturalBench-Retrieval.zip as data, beside its folder images",
    source="huggingface.co/datasets/BaiqiL/NaturalBench, github.com/Baiqi-Li/NaturalBench",
    licence="as its page says; images under the terms of their sources",
    paper="arXiv:2410.14669",
    headline=("text", "image", "group"),
)  # fmt: skip
