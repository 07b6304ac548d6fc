"""Cola: two objects with several attributes, two images that swap them (arXiv:2305.03689)."""

from __future__ import annotations

from collections.abc import Iterator

from labclip.data.entries import json_items
from labclip.data.located import ImageLayout, base_name
from labclip.evaluation.benchmarks.pairs import PairRow, pairs_of
from labclip.evaluation.sources import Benchmark, Sources
from labclip.evaluation.tasks import Task

FILE = "COLA_multiobjects_matching_benchmark.json"


def read(sources: Sources) -> Task:
    """`image` (the authors' accuracy of multiple objects: both captions prefer their image), `text` and `group`.

    The authors' part with single objects, a mean average precision, is not read.
    """
    return sources.task(*pairs_of(sources, _rows(sources)))


def _rows(sources: Sources) -> Iterator[PairRow]:
    layout = ImageLayout(sources, "{path}", "images/{path}")
    for place, item in json_items(sources.files(FILE)[0]):
        if not isinstance(item, list) or len(item) != 4:
            raise ValueError(f"{place} is {item!r}, not [link to image 1, caption 1, link to image 2, caption 2].")
        # The links end in the names that the images have in Visual Genome.
        shown = [layout.image(base_name(link) if isinstance(link, str) else link, place) for link in item[::2]]
        yield place, shown, item[1::2], ()


BENCHMARK = Benchmark(
    "cola", "Cola multi-object", "binding", read,
    wants=f"{FILE} as data; the images it links to, such as 2414605.jpg, as images",
    source="github.com/arijitray1993/COLA (data); images from its links, or Visual Genome's of the same names",
    licence="MIT; Visual Genome: CC BY 4.0",
    paper="arXiv:2305.03689",
    headline=("image",),
)  # fmt: skip
